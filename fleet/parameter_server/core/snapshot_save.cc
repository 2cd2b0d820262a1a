#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "file_pipe.h"
#include "id_file.h"
#include "side_memory.h"
#include "snapshot.h"
#include "waiting_copy.h"

namespace fleet {

namespace {

constexpr uint16_t kLastEpoch = 65535;
constexpr size_t kBytesAtOnce = size_t{128} << 10;  // rows copied under one hold of a stripe's lock: 20 us
constexpr uint64_t kRowsAtOnce = 4096;              // rows looked at, where few are copied

using Locks = std::vector<std::unique_lock<std::mutex>>;

// A row's epoch is of 16 bits. When they are used up, all rows get epoch 1 and the table goes on at 2, a few thousand rows at a
// time; what changed since the last snapshot is then not known, which Table::num_restarts() tells.
void restart_epochs(Table& table) {
  for (uint32_t s = 0; s < table.num_stripes(); ++s) {
    Stripe& stripe = table.stripe(s);
    uint64_t limit = 0;
    {
      const std::lock_guard<std::mutex> lock(stripe.mutex);
      stripe.epoch = 2;
      stripe.evicted.stop();
      limit = stripe.rows.num_places();
    }
    for (uint64_t at = 0; at < limit;) {
      const std::lock_guard<std::mutex> lock(stripe.mutex);
      for (const uint64_t end = std::min(limit, at + kRowsAtOnce); at < end; ++at) {
        char* row = stripe.rows.at(stripe.rows.ref_of(at));
        if (Stripe::epoch_of(row) > 2) Stripe::set_epoch(row, 1);
      }
    }
  }
  table.count_restart();
}

}  // namespace

// One call of Cut::write().
class CutWriter {
 public:
  CutWriter(Cut& cut, const std::vector<std::string>& prefixes, uint32_t low, uint32_t high, size_t file_bytes,
            std::vector<std::vector<SavedFile>>* saved)
      : cut_(cut),
        prefixes_(prefixes),
        low_(low),
        high_(high),
        file_bytes_(file_bytes),
        saved_(*saved),
        numbers_(prefixes.size()),
        buffers_(prefixes.size()),
        waiting_(prefixes.size()) {
    saved_.resize(prefixes.size());
  }

  Status run() {
    Status status;
    for (size_t t = 0; t < cut_.tables_.size(); ++t) {  // first: what waits changes with every push
      Table& table = *cut_.tables_[t];
      for (uint32_t s = 0; s < table.num_stripes(); ++s) copy_waiting(table.stripe(s), s, low_, high_, &waiting_[t]);
    }
    for (size_t t = 0; t < cut_.tables_.size() && status.ok(); ++t) {
      Table& table = *cut_.tables_[t];
      for (uint32_t s = 0; s < table.num_stripes() && status.ok(); ++s) status = write_stripe(t, s);
      if (status.ok()) status = flush(t);
    }
    const Status finished = pipe_.finish();
    if (status.ok()) status = finished;
    for (size_t t = 0; t < cut_.tables_.size() && status.ok(); ++t) status = write_ids(t);
    return finished.ok() ? status : finished;
  }

 private:
  Status write_stripe(size_t t, uint32_t s) {
    Stripe& stripe = cut_.tables_[t]->stripe(s);
    const size_t row_bytes = cut_.tables_[t]->schema().row_bytes();
    const uint64_t most = std::max<uint64_t>(1, kBytesAtOnce / row_bytes);
    for (bool ended = false; !ended;) {
      Status status = check();
      if (status.ok() && SideMemory::of_process().above_quarter()) status = relieve(t);
      if (status.ok()) status = make_room(t, most);  // last: relieving fills buffers
      if (!status.ok()) return status;
      buffers_[t]->touch(most);
      SideRows side;
      bool failed = false;
      {
        const std::lock_guard<std::mutex> lock(stripe.mutex);
        StripeCut& cut = stripe.cut;
        uint64_t left = most;
        for (const uint64_t end = std::min(cut.limit, cut.next + kRowsAtOnce); cut.next < end && left > 0; ++cut.next) {
          const char* row = stripe.rows.at(stripe.rows.ref_of(cut.next));
          if (!cut.holds(Stripe::epoch_of(row)) || !mine(t, row)) continue;
          buffers_[t]->add(row);
          --left;
        }
        ended = cut.next == cut.limit;
        cut.next_ref = ended ? Rows::kNone : stripe.rows.ref_of(cut.next);
        if (ended) cut.active = false;
        side = std::move(cut.side);
        failed = cut.failed;
      }
      status = failed ? copies_failed() : add_side(t, side);
      if (!status.ok()) return status;
      // A thread that sleeps now and then is not taken off its core in the middle of a slice, the stripe's lock in its hand. With
      // four busy threads on two cores: longest pull 11 instead of 20 to 35 ms, for a third of the speed.
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
    return {};
  }

  // Copies of changed rows have piled up: writes those of the tables that have most of them, wherever their turn is.
  Status relieve(size_t current) {
    for (size_t t = 0; t < cut_.tables_.size(); ++t) {
      Table& table = *cut_.tables_[t];
      size_t bytes = 0;
      for (uint32_t s = 0; s < table.num_stripes(); ++s) {
        const std::lock_guard<std::mutex> lock(table.stripe(s).mutex);
        bytes += table.stripe(s).cut.side.bytes();
      }
      if (bytes * 2 * cut_.tables_.size() < SideMemory::of_process().used()) continue;
      for (uint32_t s = 0; s < table.num_stripes(); ++s) {
        SideRows side;
        bool failed = false;
        {
          const std::lock_guard<std::mutex> lock(table.stripe(s).mutex);
          side = std::move(table.stripe(s).cut.side);
          failed = table.stripe(s).cut.failed;
        }
        Status status = failed ? copies_failed() : check();
        if (status.ok()) status = add_side(t, side);
        if (!status.ok()) return status;
      }
      const Status status = t == current ? Status() : flush(t);  // another table's buffer is memory too
      if (!status.ok()) return status;
    }
    return {};
  }

  Status add_side(size_t t, const SideRows& side) {
    Status status;
    side.each([&](const char* row) {
      if (!status.ok() || !mine(t, row)) return;
      status = make_room(t, 1);
      if (status.ok()) buffers_[t]->add(row);
    });
    return status;
  }

  bool mine(size_t t, const char* row) const { return mine(t, Stripe::key_of(row)); }
  bool mine(size_t t, uint64_t key) const {
    const uint32_t shard = shard_of_hash(hash_of(key, cut_.tables_[t]->schema().salt));
    return shard >= low_ && shard < high_;
  }

  // Writes a table's removed keys and waiting ids, if there are any.
  Status write_ids(size_t t) {
    Table& table = *cut_.tables_[t];
    const uint64_t salt = table.schema().salt;
    std::vector<uint64_t> keys;
    for (uint32_t s = 0; s < table.num_stripes() && cut_.after_[t] > 0; ++s) {
      const std::lock_guard<std::mutex> lock(table.stripe(s).mutex);
      table.stripe(s).evicted.copy(cut_.after_[t], cut_.until_[t], &keys);
    }
    keys.erase(std::remove_if(keys.begin(), keys.end(), [&](uint64_t key) { return !mine(t, key); }), keys.end());
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    Status status = check();
    if (status.ok() && !keys.empty()) {
      SavedFile saved;
      saved.holds = SavedFile::Holds::kRemoved;
      status = write_removed(keys, salt, prefixes_[t] + "-removed.safetensors", &saved);
      saved_[t].push_back(std::move(saved));
    }
    if (status.ok() && !waiting_[t].empty()) {
      SavedFile saved;
      saved.holds = SavedFile::Holds::kWaiting;
      status = write_waiting(waiting_[t], salt, prefixes_[t] + "-waiting.safetensors", &saved);
      saved_[t].push_back(std::move(saved));
    }
    return status;
  }

  // Sees to a buffer with room for `count` rows.
  Status make_room(size_t t, uint64_t count) {
    if (buffers_[t] != nullptr && buffers_[t]->num_rows + count <= buffers_[t]->capacity) return {};
    Status status = flush(t);
    if (!status.ok()) return status;
    buffers_[t] = pipe_.take_spare(t);
    if (buffers_[t] != nullptr && count <= buffers_[t]->capacity) return {};
    const Schema& schema = cut_.tables_[t]->schema();
    buffers_[t] = std::make_unique<RowBuffer>(t, schema, std::max<size_t>(count, file_bytes_ / schema.saved_bytes()));
    if (buffers_[t]->memory == nullptr) return Status::no_memory("the system has no memory for the buffers of a snapshot");
    return {};
  }

  Status flush(size_t t) {
    if (buffers_[t] == nullptr || buffers_[t]->num_rows == 0) return {};
    char number[16];
    std::snprintf(number, sizeof number, "-%05u", numbers_[t]++);
    return pipe_.put(std::move(buffers_[t]), prefixes_[t] + number + ".safetensors", &saved_[t]);
  }

  Status check() const {
    if (cut_.cancelled_.load(std::memory_order_relaxed)) return Status::invalid("the snapshot was given up by who asked for it");
    return {};
  }
  static Status copies_failed() {
    return SideMemory::of_process().given_up()
               ? Status::invalid("rows change faster than the disk takes them: the snapshot was given up, training goes on")
               : Status::no_memory("the system has no memory for copies of rows that change while they are saved");
  }

  Cut& cut_;
  const std::vector<std::string>& prefixes_;
  const uint32_t low_;
  const uint32_t high_;
  const size_t file_bytes_;
  std::vector<std::vector<SavedFile>>& saved_;
  std::vector<uint32_t> numbers_;  // of each table's next file
  std::vector<std::unique_ptr<RowBuffer>> buffers_;
  std::vector<std::vector<WaitingId>> waiting_;
  FilePipe pipe_;
};

Status Cut::begin(std::vector<std::shared_ptr<Table>> tables, std::vector<uint16_t> after, std::unique_ptr<Cut>* cut) noexcept try {
  Locks locks;
  for (const auto& table : tables) {
    for (uint32_t s = 0; s < table->num_stripes(); ++s) locks.emplace_back(table->stripe(s).mutex);
  }
  std::vector<uint16_t> until;
  for (size_t t = 0; t < tables.size(); ++t) {
    Table& table = *tables[t];
    if (table.has_cut()) return Status::invalid("a snapshot of this table is being written");
    until.push_back(table.stripe(0).epoch);
    if (!table.schema().life.any()) continue;
    for (uint32_t s = 0; s < table.num_stripes(); ++s) {
      if (!table.stripe(s).evicted.knows_above(after[t])) after[t] = 0;
    }
  }
  cut->reset(new Cut(std::move(tables), std::move(after), std::move(until)));
  SideMemory::of_process().enter();
  for (size_t t = 0; t < (*cut)->tables_.size(); ++t) {
    Table& table = *(*cut)->tables_[t];
    table.set_cut(true);
    for (uint32_t s = 0; s < table.num_stripes(); ++s) {
      Stripe& stripe = table.stripe(s);
      stripe.cut.active = stripe.rows.num_places() > 0;
      stripe.cut.failed = false;
      stripe.cut.after = (*cut)->after_[t];
      stripe.cut.until = stripe.epoch++;
      if (table.schema().life.any()) stripe.evicted.begin(stripe.cut.until);
      stripe.cut.waiting = stripe.index.num_waiting() > 0;
      stripe.cut.next = 0;
      stripe.cut.next_ref = 0;
      stripe.cut.limit = stripe.rows.num_places();
    }
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory to cut a snapshot");
}

Cut::~Cut() {
  for (const auto& table : tables_) {
    for (uint32_t s = 0; s < table->num_stripes(); ++s) {
      SideRows side;
      const std::lock_guard<std::mutex> lock(table->stripe(s).mutex);
      table->stripe(s).cut.active = false;
      table->stripe(s).cut.waiting = false;
      table->stripe(s).cut.changed.clear();
      side = std::move(table->stripe(s).cut.side);
    }
  }
  SideMemory::of_process().leave();
  for (const auto& table : tables_) {
    if (table->stripe(0).epoch == kLastEpoch) restart_epochs(*table);
    table->set_cut(false);
  }
}

Status Cut::write(const std::vector<std::string>& prefixes, uint32_t shard_low, uint32_t shard_high,
                  size_t file_bytes, std::vector<std::vector<SavedFile>>* saved) noexcept try {
  return CutWriter(*this, prefixes, shard_low, shard_high, file_bytes, saved).run();
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for the buffers of a snapshot");
} catch (const std::system_error& error) {
  return Status::io(error.code().value(), "the system gives no thread to write a snapshot");
}

}  // namespace fleet
