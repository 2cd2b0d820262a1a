// What a table does beyond its rows' values: who gets a row, and who loses it.
#include <algorithm>
#include <new>

#include "admission.h"
#include "kernels.h"
#include "memory_limit.h"
#include "pages.h"
#include "table.h"

namespace fleet {

namespace {

// Kept between calls by each thread.
struct Kept {
  std::vector<char*> rows;
  std::vector<uint64_t> ids;
  std::vector<uint32_t> order;
};

Kept& kept_of_thread(size_t count) {
  static thread_local Kept mine;
  if (mine.rows.size() < count) {
    mine.rows.resize(count);
    mine.ids.resize(count);
    mine.order.resize(count);
  }
  return mine;
}

constexpr uint64_t kAll = ~uint64_t{0};  // steps: a whole lap is due

// What is due of `places` after `steps` steps of a lap, rounded up.
uint64_t due(uint64_t places, uint64_t steps, uint64_t lap) {
  return steps >= lap ? places : (places * steps + lap - 1) / lap;
}

}  // namespace

char* Table::admit_row(const Run& run, uint64_t id, uint32_t shows, uint32_t clicks, uint64_t step, bool* room) noexcept {
  const uint64_t hash = hash_of(id, schema_.salt);
  const Entrance entrance = admit(run.stripe, schema_, *eviction_, id, hash, shows, clicks, step, std::max(step, this->step()));
  *room = entrance != Entrance::kNoMemory;
  if (entrance != Entrance::kAdmitted) return nullptr;
  *room = kernels().make(Run{run.stripe, schema_, &id, nullptr, 1, run.scratch});
  if (!*room) return nullptr;
  admitted_.fetch_add(1, std::memory_order_relaxed);
  return run.stripe.find(id, hash);
}

bool Table::push_living(const Run& run, const Sightings& seen, uint64_t step, const std::function<bool(const Run&)>& apply) {
  Kept& kept = kept_of_thread(run.count);
  kernels().find(run, kept.rows.data());
  // Whether a row had expired is asked as of the step before, as the pull of this step asked.
  const uint64_t before = this->step();
  const uint64_t now = std::max(step, before);
  size_t count = 0;
  for (size_t i = 0; i < run.count; ++i) {
    const uint64_t id = run.ids[i];
    const uint32_t at = run.order != nullptr ? run.order[i] : static_cast<uint32_t>(i);
    const uint32_t shows = seen.shows != nullptr ? seen.shows[at] : 1;
    const uint32_t clicks = seen.clicks != nullptr ? seen.clicks[at] : 0;
    char* row = kept.rows[i];
    const bool same = row != nullptr && Stripe::epoch_of(row) != 0 && Stripe::key_of(row) == id;
    if (!same) row = run.stripe.find(id, hash_of(id, schema_.salt));  // an id that repeats: made or evicted since
    if (row != nullptr && eviction_->expired(row, before)) {
      eviction_->evict(run.stripe, row);
      evicted_.fetch_add(1, std::memory_order_relaxed);
      row = nullptr;
    }
    const bool fresh = row == nullptr;
    if (fresh) {
      bool room = true;
      row = admit_row(run, id, shows, clicks, step, &room);
      if (!room) return false;
      if (row == nullptr) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
    }
    eviction_->touch(run.stripe, row, now, eviction_->score_of(shows, clicks), fresh);
    kept.ids[count] = id;
    kept.order[count++] = at;
  }
  return count == 0 || apply(Run{run.stripe, schema_, kept.ids.data(), kept.order.data(), count, run.scratch});
}

void Table::evict_expired(const Run& run) {
  Kept& kept = kept_of_thread(run.count);
  kernels().find(run, kept.rows.data());
  const uint64_t now = step();
  for (size_t i = 0; i < run.count; ++i) {
    char* row = kept.rows[i];
    if (row == nullptr || Stripe::epoch_of(row) == 0 || Stripe::key_of(row) != run.ids[i]) continue;  // evicted above: it repeats
    if (!eviction_->expired(row, now)) continue;
    eviction_->evict(run.stripe, row);
    evicted_.fetch_add(1, std::memory_order_relaxed);
  }
}

void Table::settle(const Run& run) {
  Kept& kept = kept_of_thread(run.count);
  kernels().find(run, kept.rows.data());
  for (size_t i = 0; i < run.count; ++i) {
    if (uint64_t* waiting = run.stripe.index.find_waiting(hash_of(run.ids[i], schema_.salt))) {
      run.stripe.before_waiting_changes(*waiting);
      run.stripe.index.erase(waiting, run.stripe.rows, schema_.salt);
    }
    eviction_->touch(run.stripe, kept.rows[i], step(), schema_.life.delete_below, false);
  }
}

Status Table::check_capacity(size_t n) const {
  const uint64_t capacity = schema_.life.capacity;
  if (capacity == 0 || n <= capacity) return {};
  return Status::invalid("a batch brings " + std::to_string(n) + " ids to a server whose part of the capacity is " +
                         std::to_string(capacity) + " rows");
}

void Table::jump(uint64_t step) noexcept {
  const Life& life = schema_.life;
  const uint64_t before = this->step();
  if (step <= before) return;
  // Ages, or generations of those that wait, that the few bits of a row or an entry would not tell from small ones.
  if (life.tick_of(step) - life.tick_of(before) >= Life::kMaxAge) sweep_rows(step, kAll, 0, true);
  if (life.age_steps > 0 && step / life.age_steps - before / life.age_steps >= 2) sweep_waiting(step, kAll, true);
}

void Table::tend(uint64_t step) noexcept {
  uint64_t before = this->step();
  while (before < step && !step_.compare_exchange_weak(before, step)) {
  }
  if (before < step) {
    sweep_rows(step, step - before, 0, false);
    sweep_waiting(step, step - before, false);
  }
  keep_capacity(std::max(before, step));
}

uint64_t Table::sweep_rows(uint64_t step, uint64_t steps, float below, bool jump) noexcept {
  const uint64_t lap = schema_.life.lap_steps();
  uint64_t evicted = 0;
  for (const auto& stripe : stripes_) {
    for (uint64_t done = 0;;) {  // one slice
      const std::lock_guard<std::mutex> lock(stripe->mutex);
      const uint64_t places = stripe->rows.num_places();
      if (done >= due(places, steps, lap)) break;
      if (stripe->row_cursor >= places) stripe->row_cursor = 0;
      const uint64_t from = stripe->row_cursor;
      evicted += eviction_->sweep_rows(*stripe, &stripe->row_cursor, due(places, steps, lap) - done, step, below, jump);
      done += stripe->row_cursor - from;
    }
  }
  evicted_.fetch_add(evicted, std::memory_order_relaxed);
  return evicted;
}

void Table::sweep_waiting(uint64_t step, uint64_t steps, bool jump) noexcept {
  const uint64_t lap = schema_.life.age_steps;
  for (const auto& stripe : stripes_) {
    for (uint64_t done = 0; lap > 0 || jump;) {
      const std::lock_guard<std::mutex> lock(stripe->mutex);
      const uint64_t places = stripe->index.num_waiting() > 0 ? stripe->index.num_places() : 0;
      if (done >= due(places, steps, lap)) break;
      if (stripe->waiting_cursor >= places) stripe->waiting_cursor = 0;
      const uint64_t from = stripe->waiting_cursor;
      eviction_->sweep_waiting(*stripe, &stripe->waiting_cursor, due(places, steps, lap) - done, step, jump);
      done += stripe->waiting_cursor - from;
    }
  }
}

uint64_t Table::shrink(float below) noexcept {
  if (eviction_ == nullptr) return 0;
  sweep_waiting(step(), kAll, false);
  return sweep_rows(step(), kAll, below, false);
}

void Table::keep_capacity(uint64_t step) noexcept {
  if (schema_.life.capacity == 0) return;
  const uint64_t rows = size();
  if (rows > schema_.life.capacity) shed(rows - schema_.life.capacity, step);
}

uint64_t Table::shed(uint64_t count, uint64_t step) noexcept {
  uint64_t evicted = 0;
  for (uint64_t round = 0; evicted < count; ++round) {
    const uint64_t total = std::max<uint64_t>(1, size());
    const uint64_t left = count - evicted;
    const uint64_t evicted_before = evicted;
    for (size_t s = 0; s < stripes_.size() && evicted < count; ++s) {  // each its part; who is first changes with the step
      Stripe& stripe = *stripes_[(s + step + round) % stripes_.size()];
      const std::lock_guard<std::mutex> lock(stripe.mutex);
      const uint64_t part = (left * stripe.rows.size() + total - 1) / total;
      evicted += eviction_->evict_worst(stripe, std::min(part, count - evicted), step);
    }
    if (evicted == evicted_before) break;  // no rows are left
  }
  evicted_.fetch_add(evicted, std::memory_order_relaxed);
  return evicted;
}

Status Table::make_room(const uint64_t* ids, size_t n) noexcept {
  MemoryLimit& limit = MemoryLimit::of_process();
  if (limit.limit() == 0 || n == 0) return {};
  // At worst every id is new, every stripe's next rows open a huge page, and the indices double.
  uint64_t free_places = 0;
  size_t index_bytes = 0;
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    free_places += stripe->rows.num_places() - stripe->rows.size();
    if (stripe->index.nearly_full(n / stripes_.size() + n / 64 + 16)) index_bytes += 2 * stripe->index.memory_bytes();
  }
  const size_t opened = std::min(stripes_.size() * kHugePageBytes, memory_bytes());
  const auto fits = [&](uint64_t rows) { return rows * schema_.row_bytes() + opened + index_bytes <= limit.left(); };
  if (n <= free_places || fits(n - free_places)) return {};
  uint64_t missing = 0;
  const Status found = each_stripe(ids, n, [&](const Run& run, size_t) {
    Kept& kept = kept_of_thread(run.count);
    kernels().find(run, kept.rows.data());
    missing += static_cast<uint64_t>(std::count(kept.rows.begin(), kept.rows.begin() + static_cast<std::ptrdiff_t>(run.count), nullptr));
    return true;
  });
  if (!found.ok() || missing <= free_places) return found;
  if (fits(missing - free_places)) return {};
  if (!evicts_when_full_.load(std::memory_order_relaxed) || eviction_ == nullptr) {
    return Status::full(std::to_string(missing) + " new rows of " + std::to_string(schema_.row_bytes()) + " bytes: the tables have " +
                        std::to_string(limit.left()) + " bytes left of the server's " + std::to_string(limit.limit()));
  }
  if (schema_.life.admits()) sweep_waiting(step(), kAll, true);  // those that only wait go first
  shed(missing - free_places, step());
  return {};
}

void Table::forget_evicted(uint16_t epoch) noexcept {
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    stripe->evicted.forget(epoch);
  }
}

LifeCounts Table::life_counts() noexcept {
  LifeCounts counts;
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    counts.waiting += stripe->index.num_waiting();
  }
  counts.admitted = admitted_.load(std::memory_order_relaxed);
  counts.evicted = evicted_.load(std::memory_order_relaxed);
  counts.dropped = dropped_.load(std::memory_order_relaxed);
  return counts;
}

}  // namespace fleet
