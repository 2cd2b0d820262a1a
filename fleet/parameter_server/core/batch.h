// The client's work on one batch of ids: remove repeats, sort by server, spread rows out, merge gradients.
// Deterministic: the same input gives the same output, bit for bit, with any SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mix.h"
#include "status.h"

namespace fleet {

// Numbers distinct ids 0, 1, 2... in order of first appearance. Memory is kept between batches.
class Numbers {
 public:
  explicit Numbers(uint64_t salt) : salt_(salt) {}

  // Forgets all ids; up to `most` ids, repeats counted, may be added. May throw std::bad_alloc: callers catch it.
  void begin(size_t most);
  // Writes the number of each id.
  void add(const uint64_t* ids, size_t n, uint32_t* numbers) noexcept;

  size_t count() const { return count_; }
  const uint64_t* ids() const { return ids_.data() + 1; }  // by number

 private:
  const uint64_t salt_;
  std::vector<uint32_t> slots_;  // open addressing: number + 1, or 0
  std::vector<uint64_t> ids_;    // [0] is never looked at; then the ids by number; then room for one
  size_t count_ = 0;
};

// Removes repeats from a batch of ids and groups what remains by server, within a server by stripe (as Table wants them),
// within a stripe by first appearance. Memory is kept between calls. Not thread-safe: one per thread.
class Unique {
 public:
  explicit Unique(uint64_t salt) : salt_(salt), numbers_(salt) {}

  // ids[n] -> keys() and inverse[n]: ids[i] == keys()[inverse[i]]. server_of_shard[kNumShards] values are < num_servers; if not,
  // kInvalid. n < 2^31.
  Status run(const uint64_t* ids, size_t n, const uint16_t* server_of_shard, uint32_t num_servers, uint32_t* inverse) noexcept;

  const std::vector<uint64_t>& keys() const { return keys_; }
  const std::vector<int64_t>& counts() const { return counts_; }  // keys of each server

 private:
  const uint64_t salt_;
  Numbers numbers_;
  std::vector<uint32_t> groups_;   // server * kMaxStripes + stripe, by number
  std::vector<uint32_t> places_;   // number -> place in keys_
  std::vector<uint32_t> begins_;   // first place of each group
  std::vector<uint64_t> keys_;
  std::vector<int64_t> counts_;
};

// One trainer's push: keys[n] without repeats, grads[n, dim].
struct Push {
  const uint64_t* keys;
  const float* grads;
  size_t count;
};

// Numbers the distinct keys of several pushes in order of first appearance: (*keys)[places[i]] is the i-th key of all pushes in
// a row. Then sum_pushes() adds their gradients up in the order of the list, to out[num_keys, dim].
Status number_pushes(const std::vector<Push>& pushes, std::vector<uint64_t>* keys, std::vector<uint32_t>* places) noexcept;
void sum_pushes(const std::vector<Push>& pushes, size_t dim, const std::vector<uint32_t>& places, size_t num_keys,
                float* out) noexcept;

}  // namespace fleet
