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

// Goes on from a slot that holds another id, to the slot of `id` or an empty one.
size_t probe(const std::vector<uint32_t>& slots, const uint64_t* ids, uint64_t id, size_t at) {
  const size_t mask = slots.size() - 1;
  do {
    at = (at + 1) & mask;
  } while (slots[at] != 0 && ids[slots[at]] != id);
  return at;
}

}  // namespace

void Numbers::begin(size_t most) {
  slots_.assign(slots_for(most), 0);
  if (ids_.size() < most + 2) ids_.resize(most + 2);
  count_ = 0;
}

void Numbers::add(const uint64_t* ids, size_t n, uint32_t* numbers) noexcept {
  const size_t mask = slots_.size() - 1;
  uint64_t* known = ids_.data();
  size_t hashes[kAhead] = {};
  for (size_t i = 0; i < n + kAhead; ++i) {
    const size_t at_hash = hashes[i % kAhead];
    if (i < n) {
      hashes[i % kAhead] = hash_of(ids[i], salt_) & mask;
      __builtin_prefetch(&slots_[hashes[i % kAhead]], 1, 3);
    }
    if (i < kAhead) continue;
    const uint64_t id = ids[i - kAhead];
    size_t at = at_hash;
    uint32_t seen = slots_[at];
    if ((seen != 0) & (known[seen] != id)) {  // one branch that is rarely taken, not two
      at = probe(slots_, known, id, at);
      seen = slots_[at];
    }
    // Whether an id is new is a coin toss: no branch, both outcomes are written.
    const bool is_new = seen == 0;
    known[count_ + 1] = id;
    const uint32_t number = is_new ? static_cast<uint32_t>(count_ + 1) : seen;
    slots_[at] = number;
    count_ += is_new;
    numbers[i - kAhead] = number - 1;
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
  numbers_.begin(n);
  numbers_.add(ids, n, inverse);
  const size_t m = numbers_.count();
  const uint64_t* firsts = numbers_.ids();
  begins_.assign(size_t{num_servers} * kMaxStripes, 0);
  groups_.resize(m);
  for (size_t number = 0; number < m; ++number) {
    const uint64_t hash = hash_of(firsts[number], salt_);
    const uint32_t group = server_of_shard[shard_of_hash(hash)] * kMaxStripes + stripe_of_hash(hash);
    groups_[number] = group;
    ++begins_[group];
  }
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
    keys_[place] = firsts[number];
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
  Numbers numbers(0);
  numbers.begin(total);
  places->resize(total);
  uint32_t* mine = places->data();
  for (const Push& push : pushes) {
    numbers.add(push.keys, push.count, mine);
    mine += push.count;
  }
  keys->assign(numbers.ids(), numbers.ids() + numbers.count());
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
