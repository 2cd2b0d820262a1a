#include "batch.h"

#include <algorithm>
#include <new>

#include "kernels.h"

namespace fleet {

namespace {

constexpr size_t kAhead = 16;  // ids between fetching a slot and using it

size_t slots_for(size_t n) {
  size_t slots = 16;
  while (slots < n + n / 2) slots *= 2;
  return slots;
}

// Returns the number of `id`, giving it the next one if it is new.
inline uint32_t number_of(uint64_t id, uint64_t hash, std::vector<uint32_t>& slots, std::vector<uint64_t>& firsts) {
  const size_t mask = slots.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const uint32_t seen = slots[at];
    if (seen == 0) {
      firsts.push_back(id);
      slots[at] = static_cast<uint32_t>(firsts.size());
      return slots[at] - 1;
    }
    if (firsts[seen - 1] == id) return seen - 1;
  }
}

}  // namespace

void Unique::number_ids(const uint64_t* ids, size_t n, const uint16_t* server_of_shard, uint32_t* inverse) {
  slots_.assign(slots_for(n), 0);
  firsts_.clear();
  firsts_.reserve(n);
  groups_.clear();
  groups_.reserve(n);
  const size_t mask = slots_.size() - 1;
  uint64_t hashes[kAhead];
  for (size_t i = 0; i < n + kAhead; ++i) {
    const uint64_t ready = hashes[i % kAhead];
    if (i < n) {
      const uint64_t hash = hash_of(ids[i], salt_);
      hashes[i % kAhead] = hash;
      __builtin_prefetch(&slots_[hash & mask], 1, 3);
    }
    if (i < kAhead) continue;
    const uint32_t number = number_of(ids[i - kAhead], ready, slots_, firsts_);
    inverse[i - kAhead] = number;
    if (number == groups_.size()) groups_.push_back(server_of_shard[shard_of_hash(ready)] * kMaxStripes + stripe_of_hash(ready));
  }
}

Status Unique::run(const uint64_t* ids, size_t n, const uint16_t* server_of_shard, uint32_t num_servers,
                   uint32_t* inverse) noexcept try {
  for (uint32_t shard = 0; shard < kNumShards; ++shard) {
    if (server_of_shard[shard] >= num_servers) {
      return Status::invalid("server_of_shard[" + std::to_string(shard) + "] is " + std::to_string(server_of_shard[shard]) +
                             ", but there are " + std::to_string(num_servers) + " servers");
    }
  }
  number_ids(ids, n, server_of_shard, inverse);
  const size_t m = firsts_.size();
  begins_.assign(size_t{num_servers} * kMaxStripes, 0);
  for (const uint32_t group : groups_) ++begins_[group];
  counts_.assign(num_servers, 0);
  uint32_t sum = 0;
  for (size_t group = 0; group < begins_.size(); ++group) {
    const uint32_t size = begins_[group];
    counts_[group / kMaxStripes] += size;
    begins_[group] = sum;
    sum += size;
  }
  keys_.resize(m);
  places_.resize(m);
  for (size_t number = 0; number < m; ++number) {
    const uint32_t place = begins_[groups_[number]]++;
    places_[number] = place;
    keys_[place] = firsts_[number];
  }
  for (size_t i = 0; i < n; ++i) inverse[i] = places_[inverse[i]];
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory to remove repeated ids");
}

Status number_pushes(const std::vector<Push>& pushes, std::vector<uint64_t>* keys, std::vector<uint32_t>* places) noexcept try {
  size_t total = 0;
  for (const Push& push : pushes) total += push.count;
  if (total >= size_t{1} << 31) return Status::invalid("pushes hold 2^31 keys or more");
  std::vector<uint32_t> slots(slots_for(total), 0);
  keys->clear();
  keys->reserve(total);
  places->clear();
  places->reserve(total);
  for (const Push& push : pushes) {
    for (size_t i = 0; i < push.count; ++i) places->push_back(number_of(push.keys[i], hash_of(push.keys[i], 0), slots, *keys));
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory to merge pushes");
}

void sum_pushes(const std::vector<Push>& pushes, size_t dim, const std::vector<uint32_t>& places, size_t num_keys,
                float* out) noexcept {
  std::fill_n(out, num_keys * dim, 0.0f);
  const uint32_t* mine = places.data();
  for (const Push& push : pushes) {
    kernels().add_rows(push.grads, dim, mine, push.count, out);
    mine += push.count;
  }
}

}  // namespace fleet
