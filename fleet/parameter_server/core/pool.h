// Bags: ids of variable number whose rows are pooled into one. One pass from a batch's unique rows to the bags' rows, one back.
//
// The i-th id has the row `inverse[i]` of the batch's unique rows, and the weight weights[i] (1 if there are none). A bag's row is
//   sum    S = sum of weight x row, in the order of the ids
//   mean   S / sum of weights
//   sqrtn  S / root of the sum of squared weights
// and zeros if the bag is empty or the divisor is 0. Deterministic: the same input gives the same bits with any SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "status.h"

namespace fleet {

enum class Pooling { kSum = 0, kMean = 1, kSqrtn = 2 };

// Ids in bags one after the other: check_bags() has passed. lengths == nullptr: every id is a bag of its own.
struct Bags {
  Pooling pooling;
  const uint32_t* inverse;  // [num_ids]; every value is a valid row
  const float* weights;     // [num_ids], or nullptr
  size_t num_ids;
  const int64_t* lengths;  // [num_bags], or nullptr
  size_t num_bags;
};

// kInvalid, with the counts, if a length is negative or they do not add up to num_ids.
Status check_bags(const int64_t* lengths, size_t num_bags, size_t num_ids) noexcept;

// Sets out[num_bags, dim].
void pool(const Bags& bags, const float* rows, size_t dim, float* out) noexcept;

// The way back: adds the gradient of each id's row, grads[num_bags, dim] times its weight over its bag's divisor, to
// out[num_rows, dim], in the order of the ids.
void unpool(const Bags& bags, const float* grads, size_t dim, float* out) noexcept;

// Sets out[num_ids] to the gradient of the weights; bags.weights is not nullptr.
void weight_gradients(const Bags& bags, const float* rows, const float* grads, size_t dim, float* out) noexcept;

// A batch of ids without those that are padding.
struct Kept {
  std::vector<uint64_t> ids;
  std::vector<int64_t> places;   // of the ids in the batch
  std::vector<int64_t> lengths;  // of the bags; [num_ids] of 0 and 1 if the batch has none
};

// Leaves the padding out of ids[n] in bags of these lengths (nullptr: no bags).
Status drop_padding(const uint64_t* ids, size_t n, uint64_t padding, const int64_t* lengths, size_t num_bags, Kept* kept) noexcept;

}  // namespace fleet
