// One of a table's lock stripes: the index and the rows of the keys whose hash falls into it.
#pragma once

#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "evicted_keys.h"
#include "index.h"
#include "rows.h"
#include "schema.h"
#include "stripe_cut.h"

namespace fleet {

struct Stripe {
  explicit Stripe(size_t row_bytes) : rows(row_bytes) {}

  std::mutex mutex;  // guards everything below, contents of rows included
  Index index;
  Rows rows;
  uint16_t epoch = 1;  // what a row that changes now gets; never 0
  StripeCut cut;       // rows that a snapshot has yet to write

  // Row life: where the sweep is, what capacity draws from, and the keys that lost their rows, for deltas.
  uint64_t row_cursor = 0;
  uint64_t waiting_cursor = 0;
  uint64_t random = 0;
  EvictedKeys evicted;

  static uint64_t key_of(const char* row) {
    uint64_t key;
    std::memcpy(&key, row, sizeof key);
    return key;
  }
  static uint16_t epoch_of(const char* row) {
    uint16_t epoch;
    std::memcpy(&epoch, row + Schema::kEpochOffset, sizeof epoch);
    return epoch;
  }
  static void set_epoch(char* row, uint16_t epoch) { std::memcpy(row + Schema::kEpochOffset, &epoch, sizeof epoch); }
  static uint16_t seen_of(const char* row) {
    uint16_t seen;
    std::memcpy(&seen, row + Schema::kSeenOffset, sizeof seen);
    return seen;
  }
  static void set_seen(char* row, uint16_t seen) { std::memcpy(row + Schema::kSeenOffset, &seen, sizeof seen); }
  // Rows are aligned to 4 bytes, and so are their parts.
  // schema.weights and schema.state say what lies there.
  static char* weights_of(const Schema& schema, char* row) { return row + schema.weights_offset(); }
  static char* state_of(const Schema& schema, char* row) { return row + schema.state_offset(); }

  // Returns the reference of the row of `id`, or Rows::kNone. The careful path: looks at every candidate.
  uint64_t find_ref(uint64_t id, uint64_t hash) const noexcept {
    const uint64_t want = Index::want(hash);
    for (const uint64_t* bucket = index.bucket(hash);; bucket = index.next(bucket)) {
      for (int i = 0; i < 8; ++i) {
        if (bucket[i] == 0) return Rows::kNone;  // filled from the front
        if ((bucket[i] & Index::kWantMask) != want) continue;
        const uint64_t ref = bucket[i] & Index::kRefMask;
        if (key_of(rows.at(ref)) == id) return ref;
      }
    }
  }

  // Returns the row of `id` or nullptr.
  char* find(uint64_t id, uint64_t hash) const noexcept {
    const uint64_t ref = find_ref(id, hash);
    return ref == Rows::kNone ? nullptr : rows.at(ref);
  }

  // Called before a row is changed or removed, and after it was made.
  void before_change(const Schema& schema, char* row) noexcept {
    if (epoch_of(row) != epoch) first_change(schema, row);
  }

  // Appends the row of an id that is not there: key and epoch written, the rest zero. nullptr if the system has no memory.
  char* insert(uint64_t id, uint64_t hash, uint64_t salt) noexcept {
    if (!index.reserve_one(rows, salt)) return nullptr;
    const uint64_t ref = rows.append();
    if (ref == Rows::kNone) return nullptr;
    char* row = rows.at(ref);
    std::memcpy(row, &id, sizeof id);
    set_epoch(row, epoch);
    index.add(hash, ref);
    return row;
  }

  // Removes a row and frees its place. before_change() was called.
  void erase(char* row, uint64_t salt) noexcept {
    rows.release(index.erase_row(hash_of(key_of(row), salt), row, rows, salt));
  }

  void note_evicted(uint64_t key) noexcept { evicted.note(key, epoch, EvictedKeys::most(rows.num_places())); }

  // Called before a waiting entry changes or goes.
  void before_waiting_changes(uint64_t entry) noexcept { cut.keep_waiting(entry); }
  // Called before a waiting entry of this hash is added.
  void before_waiting_comes(uint64_t hash) noexcept { cut.keep_waiting(Index::want_waiting(hash) & ~Index::kWaiting); }

 private:
  // For the first time in this epoch: a cut that has yet to write the row gets a copy of it.
  __attribute__((noinline)) void first_change(const Schema& schema, char* row) noexcept {
    if (cut.active && cut.holds(epoch_of(row))) {
      const uint64_t id = key_of(row);
      cut.keep(find_ref(id, hash_of(id, schema.salt)), row, schema.row_bytes());
    }
    set_epoch(row, epoch);
  }
};

}  // namespace fleet
