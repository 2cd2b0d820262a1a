#include "table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "kernels.h"
#include "side_memory.h"

namespace fleet {

namespace {

// Ids are sorted by stripe in blocks: their places fit the cache, and a large call does not hold a lock for long.
constexpr size_t kBlock = 65536;

// What a thread needs to sort one block; kept between calls.
struct Workspace {
  std::vector<uint8_t> stripes;
  std::vector<uint64_t> ids;
  std::vector<uint32_t> order;
  std::vector<float> row;  // for the update of one row
};

Workspace& workspace() {
  static thread_local Workspace mine;
  return mine;
}

}  // namespace

Table::Table(const Schema& schema, uint32_t num_stripes)
    : schema_(schema),
      eviction_(schema.life.any() ? std::make_unique<Eviction>(schema_) : nullptr),
      beta_powers_(schema.constants[0], schema.constants[1]) {
  for (uint32_t wide = num_stripes; wide < kMaxStripes; wide *= 2) ++stripe_shift_;
  for (uint32_t i = 0; i < num_stripes; ++i) stripes_.push_back(std::make_unique<Stripe>(schema.row_bytes()));
}

template <bool kChanges, class Work>
Status Table::by_stripe(const uint64_t* ids, size_t n, const Work& work) noexcept try {
  const auto do_group = [&](uint32_t stripe, const uint64_t* group, const uint32_t* order, size_t count, size_t offset) {
    if (kChanges && SideMemory::of_process().full()) SideMemory::of_process().wait_for_room();
    const std::lock_guard<std::mutex> lock(stripes_[stripe]->mutex);
    return work(Run{*stripes_[stripe], schema_, group, order, count, workspace().row.data()}, offset);
  };
  Workspace& space = workspace();
  if (space.row.size() < schema_.scratch_floats()) space.row.resize(schema_.scratch_floats());
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t count = std::min(kBlock, n - begin);
    const uint64_t* block = ids + begin;
    if (space.stripes.size() < count) {
      space.stripes.resize(count);
      space.ids.resize(count);
      space.order.resize(count);
    }
    uint32_t sizes[kMaxStripes] = {};
    size_t num_groups = 1;
    for (size_t i = 0; i < count; ++i) {
      const auto stripe = static_cast<uint8_t>(stripe_of(block[i]));
      space.stripes[i] = stripe;
      ++sizes[stripe];
      num_groups += i > 0 && stripe != space.stripes[i - 1];
    }
    bool room = true;
    if (num_groups <= count / 64 + 1) {  // the client sent them grouped: no need to sort
      for (size_t at = 0; at < count && room;) {
        size_t end = at + 1;
        while (end < count && space.stripes[end] == space.stripes[at]) ++end;
        room = do_group(space.stripes[at], block + at, nullptr, end - at, begin + at);
        at = end;
      }
    } else {
      uint32_t places[kMaxStripes];
      uint32_t sum = 0;
      for (uint32_t s = 0; s < kMaxStripes; ++s) {
        places[s] = sum;
        sum += sizes[s];
      }
      for (size_t i = 0; i < count; ++i) {  // stable: repeated ids keep their order
        const uint32_t place = places[space.stripes[i]]++;
        space.ids[place] = block[i];
        space.order[place] = static_cast<uint32_t>(i);
      }
      for (uint32_t s = 0; s < num_stripes() && room; ++s) {
        const uint32_t at = places[s] - sizes[s];
        if (sizes[s] > 0) room = do_group(s, &space.ids[at], &space.order[at], sizes[s], begin);
      }
    }
    if (!room) return Status::no_memory("the system has no memory for new rows");
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory to sort ids by stripe");
}

Status Table::each_stripe(const uint64_t* ids, size_t n, const std::function<bool(const Run&, size_t)>& work) noexcept {
  return by_stripe<false>(ids, n, [&](const Run& run, size_t offset) { return work(run, offset); });
}

Status Table::pull(const uint64_t* ids, size_t n, float* out, bool create, uint64_t* num_created) noexcept {
  const Kernels& k = kernels();
  *num_created = 0;
  return by_stripe<false>(ids, n, [&](const Run& run, size_t offset) {
    if (!create || eviction_ != nullptr) {
      if (schema_.life.expires()) evict_expired(run);
      k.peek(run, out + offset * schema_.dim);
      return true;
    }
    const uint64_t before = run.stripe.rows.size();
    const bool room = k.pull(run, out + offset * schema_.dim);
    *num_created += run.stripe.rows.size() - before;
    return room;
  });
}

Rate Table::rate_of(float lr, int64_t step) noexcept {
  const uint64_t noise = mix64(static_cast<uint64_t>(step) ^ mix64(schema_.salt));
  if (!schema_.optimizer->uses_powers) return {lr, 0, 0, noise};
  const BetaPowers::Powers power = beta_powers_.at(step);
  return {lr, power.beta1, power.beta2, noise};
}

Status Table::push(const uint64_t* ids, size_t n, const float* grads, float lr, int64_t step, size_t* num_nonfinite,
                   const Sightings& seen) noexcept {
  const Kernels& k = kernels();
  *num_nonfinite = k.count_nonfinite(grads, n * schema_.dim);
  if (*num_nonfinite > 0) return {};
  const Rate rate = rate_of(lr, step);
  const Status room = make_room(ids, n);
  if (!room.ok()) return room;
  if (eviction_ == nullptr) {
    return by_stripe<true>(ids, n, [&](const Run& run, size_t offset) { return k.push(run, grads + offset * schema_.dim, rate); });
  }
  const Status status = check_capacity(n);
  if (!status.ok()) return status;
  const auto now = static_cast<uint64_t>(step);
  jump(now);
  const Status pushed = by_stripe<true>(ids, n, [&](const Run& run, size_t offset) {
    return push_living(run, seen.from(offset), now, [&](const Run& kept) { return k.push(kept, grads + offset * schema_.dim, rate); });
  });
  if (pushed.ok()) tend(now);
  return pushed;
}

Status Table::assign(const uint64_t* ids, size_t n, const float* weights, const float* state) noexcept {
  const Kernels& k = kernels();
  const size_t state_dim = schema_.state_dim();
  Status status = check_capacity(n);
  if (status.ok()) status = make_room(ids, n);
  if (!status.ok()) return status;
  const Status assigned = by_stripe<true>(ids, n, [&](const Run& run, size_t offset) {
    if (!k.assign(run, weights + offset * schema_.dim, state == nullptr ? nullptr : state + offset * state_dim)) return false;
    if (eviction_ != nullptr) settle(run);
    return true;
  });
  if (assigned.ok() && eviction_ != nullptr) keep_capacity(step());
  return assigned;
}

Status Table::read(const uint64_t* ids, size_t n, bool* found, float* weights, float* state) noexcept {
  const Kernels& k = kernels();
  const size_t state_dim = schema_.state_dim();
  return by_stripe<false>(ids, n, [&](const Run& run, size_t offset) {
    k.read(run, found + offset, weights + offset * schema_.dim, state + offset * state_dim);
    return true;
  });
}

Status Table::restore(const uint64_t* ids, size_t n, const std::vector<Part>& parts, uint64_t* num_made,
                      uint64_t* num_repeated) noexcept try {
  constexpr size_t kAhead = 16;  // buckets are fetched so many ids before they are needed
  bool state = schema_.state_dim() == 0;
  for (const Part& part : parts) state = state || part.offset == schema_.state_offset();
  const std::vector<float> values(schema_.state_dim(), schema_.initial_state());
  std::vector<char> initial(schema_.state_bytes());
  if (!initial.empty()) kernels().store_numbers(schema_.state, values.data(), values.size(), initial.data());
  return by_stripe<true>(ids, n, [&](const Run& run, size_t offset) {
    for (size_t i = 0; i < run.count; ++i) {
      if (i + kAhead < run.count) __builtin_prefetch(run.stripe.index.bucket(hash_of(run.ids[i + kAhead], schema_.salt)));
      const uint64_t id = run.ids[i];
      const uint64_t hash = hash_of(id, schema_.salt);
      if (const char* there = run.stripe.find(id, hash)) {
        *num_repeated += Stripe::epoch_of(there) == run.stripe.epoch;
        continue;
      }
      char* row = run.stripe.insert(id, hash, schema_.salt);
      if (row == nullptr) return false;
      const size_t at = offset + (run.order != nullptr ? run.order[i] : i);
      for (const Part& part : parts) std::memcpy(row + part.offset, part.from + at * part.bytes, part.bytes);
      if (!state) std::memcpy(row + schema_.state_offset(), initial.data(), initial.size());
      ++*num_made;
    }
    return true;
  });
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for the state of restored rows");
}

Status Table::has(const uint64_t* ids, size_t n, bool* there) noexcept {
  return by_stripe<false>(ids, n, [&](const Run& run, size_t offset) {
    for (size_t i = 0; i < run.count; ++i) {
      const size_t at = offset + (run.order != nullptr ? run.order[i] : i);
      there[at] = run.stripe.find_ref(run.ids[i], hash_of(run.ids[i], schema_.salt)) != Rows::kNone;
    }
    return true;
  });
}

Status Table::keys(std::vector<uint64_t>* out) noexcept try {
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    const Rows& rows = stripe->rows;
    out->reserve(out->size() + rows.size());
    for (uint64_t place = 0; place < rows.num_places(); ++place) {
      const uint64_t ref = rows.ref_of(place);
      if (!rows.is_free(ref)) out->push_back(Stripe::key_of(rows.at(ref)));
    }
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for the list of keys");
}

uint64_t Table::size() noexcept {
  uint64_t sum = 0;
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    sum += stripe->rows.size();
  }
  return sum;
}

size_t Table::memory_bytes() noexcept {
  size_t sum = 0;
  for (const auto& stripe : stripes_) {
    const std::lock_guard<std::mutex> lock(stripe->mutex);
    sum += stripe->rows.memory_bytes() + stripe->index.memory_bytes();
  }
  return sum;
}

}  // namespace fleet
