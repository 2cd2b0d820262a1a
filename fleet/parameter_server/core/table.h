// A table: uint64 key -> row of `dim` weights with optimizer state. Any id is a key; none is reserved.
//
// Thread-safe: any number of threads may call any method at once. Keys belong to at most 16 lock stripes by hash; inside a call
// a lock is taken once per group of ids of one stripe. A row is read and written whole under its stripe's lock; a call as a
// whole is not atomic towards other calls.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "beta_powers.h"
#include "eviction.h"
#include "schema.h"
#include "status.h"
#include "stripe.h"

namespace fleet {

struct Run;

// How often each key of a push was seen in the batch, and how often with a click: shows[n], clicks[n]; nullptr: once, and never.
// Only tables with row life look at it.
struct Sightings {
  const uint32_t* shows = nullptr;
  const uint32_t* clicks = nullptr;
  Sightings from(size_t at) const { return {shows == nullptr ? nullptr : shows + at, clicks == nullptr ? nullptr : clicks + at}; }
};

// What became of ids since the table was made.
struct LifeCounts {
  uint64_t waiting = 0;   // ids that have been seen and have no row: now
  uint64_t admitted = 0;  // ids that earned a row
  uint64_t evicted = 0;   // rows that were lost again
  uint64_t dropped = 0;   // gradients of ids without a row
};

class Table {
 public:
  // `num_stripes` is a power of two, 1 to kMaxStripes. The schema was checked: see check_schema().
  Table(const Schema& schema, uint32_t num_stripes);
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // Copies the weights of ids[n] to out[n, dim]. Missing rows: created if `create` (and counted), else they read as their
  // initial value. With row life a pull creates none: a push does.
  Status pull(const uint64_t* ids, size_t n, float* out, bool create, uint64_t* num_created) noexcept;

  // Applies grads[n, dim] to the rows of ids[n], in order if ids repeat; creates missing rows first. If any gradient is not
  // finite, changes nothing and says how many in `num_nonfinite`. Out of memory: some ids were applied, others not.
  // With row life, ids that have not earned a row are passed over, and rows are evicted afterwards: see life.h. More ids than
  // the table's capacity are refused (kInvalid), and change nothing.
  Status push(const uint64_t* ids, size_t n, const float* grads, float lr, int64_t step, size_t* num_nonfinite,
              const Sightings& seen = {}) noexcept;

  // Sets the weights of ids[n], and their state to state[n, state_dim] or, if nullptr, to its initial value.
  Status assign(const uint64_t* ids, size_t n, const float* weights, const float* state) noexcept;

  // Copies found[n], weights[n, dim], state[n, state_dim]; missing ids read as initial values. Creates nothing.
  Status read(const uint64_t* ids, size_t n, bool* found, float* weights, float* state) noexcept;

  // A part of many rows: `bytes` of each, which lie at `offset` in a row.
  struct Part {
    const char* from;
    size_t offset;
    size_t bytes;
  };
  // Makes the rows of those ids[n] that have none, of parts; state that no part brings begins at its initial value.
  // Counts them in `num_made`; the rows that are there stay as they are, and those of the present epoch are counted in `num_repeated`.
  Status restore(const uint64_t* ids, size_t n, const std::vector<Part>& parts, uint64_t* num_made, uint64_t* num_repeated) noexcept;

  // Says of each of ids[n] whether it has a row.
  Status has(const uint64_t* ids, size_t n, bool* there) noexcept;

  // Appends every key, stripe by stripe in order of creation.
  Status keys(std::vector<uint64_t>* out) noexcept;

  // With a memory limit that new rows would exceed: rows are evicted to make room (by the rules of capacity), or the call is
  // refused (kFull) and changes nothing. The first needs row life.
  void set_evicts_when_full(bool evicts) noexcept { evicts_when_full_.store(evicts, std::memory_order_relaxed); }
  // Before a pull that creates rows: refuses it (kFull) where they would exceed the memory limit. Apart from pull(), because a
  // server pulls in pieces and must not begin an answer that it cannot end.
  Status room_to_pull(const uint64_t* ids, size_t n) noexcept { return eviction_ == nullptr ? make_room(ids, n) : Status(); }
  // Evicts at once whatever has expired, and rows whose score is below `below`; returns how many rows.
  uint64_t shrink(float below) noexcept;
  // The step of the last push, by which rows age; set when a snapshot is loaded.
  uint64_t step() const { return step_.load(std::memory_order_relaxed); }
  void set_step(uint64_t step) noexcept { step_.store(step, std::memory_order_relaxed); }
  LifeCounts life_counts() noexcept;
  // No delta will be asked for that continues a cut before `epoch` ended: keys evicted until then need not be known.
  void forget_evicted(uint16_t epoch) noexcept;

  uint64_t size() noexcept;
  size_t memory_bytes() noexcept;  // rows populated and index
  const Schema& schema() const { return schema_; }
  uint32_t num_stripes() const { return static_cast<uint32_t>(stripes_.size()); }
  Stripe& stripe(uint32_t number) { return *stripes_[number]; }

  // For Cut: at most one is in force, from its beginning under all stripes' locks to its end.
  bool has_cut() const { return has_cut_.load(); }
  void set_cut(bool has) { has_cut_.store(has); }
  // How often the epochs of rows began anew: what was known of changes before is lost.
  uint32_t num_restarts() const { return num_restarts_.load(); }
  void count_restart() { ++num_restarts_; }

 protected:
  // by_stripe() for other files; rows may be made, but no cut may be in force that needs copies of them.
  Status each_stripe(const uint64_t* ids, size_t n, const std::function<bool(const Run&, size_t)>& work) noexcept;
  Rate rate_of(float lr, int64_t step) noexcept;

 private:
  // Calls work(Run, offset) once per group of ids of one stripe, with its lock held. If rows may change, waits before that for
  // room for the copies that a snapshot needs. Positions in the caller's arrays are
  // offset + order[i], or offset + i where order is nullptr. Stops when work returns false, which means no memory.
  template <bool kChanges, class Work>
  Status by_stripe(const uint64_t* ids, size_t n, const Work& work) noexcept;
  uint32_t stripe_of(uint64_t id) const { return stripe_of_hash(hash_of(id, schema_.salt)) >> stripe_shift_; }

  // Row life, in table_life.cc. One group of a push: admits or passes over, then apply(Run) of the ids that have rows.
  bool push_living(const Run& run, const Sightings& seen, uint64_t step, const std::function<bool(const Run&)>& apply);
  char* admit_row(const Run& run, uint64_t id, uint32_t shows, uint32_t clicks, uint64_t step, bool* room) noexcept;
  void evict_expired(const Run& run);
  void settle(const Run& run);  // rows that were assigned: pushed to now, and worth keeping
  Status check_capacity(size_t n) const;
  // Before a push whose step lies so far ahead that a row's age would not tell it.
  void jump(uint64_t step) noexcept;
  // After a push of `step`: a slice of the sweep, then down to the capacity.
  void tend(uint64_t step) noexcept;
  void keep_capacity(uint64_t step) noexcept;
  // Before rows of ids[n] are made.
  Status make_room(const uint64_t* ids, size_t n) noexcept;
  uint64_t sweep_rows(uint64_t step, uint64_t steps, float below, bool jump) noexcept;
  void sweep_waiting(uint64_t step, uint64_t steps, bool jump) noexcept;
  uint64_t shed(uint64_t count, uint64_t step) noexcept;

  const Schema schema_;
  const std::unique_ptr<Eviction> eviction_;  // nullptr: a table whose rows live for ever
  std::atomic<uint64_t> step_{0};
  std::atomic<bool> evicts_when_full_{false};
  std::atomic<uint64_t> admitted_{0}, evicted_{0}, dropped_{0};
  BetaPowers beta_powers_;
  uint32_t stripe_shift_ = 0;
  std::vector<std::unique_ptr<Stripe>> stripes_;
  std::atomic<bool> has_cut_{false};
  std::atomic<uint32_t> num_restarts_{0};
};

}  // namespace fleet
