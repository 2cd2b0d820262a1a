// A table that is only read: rows sorted by the hash of their key, in memory that somebody mapped. Nothing is allocated here.
//
//   index  u64[2^bits + 1]  index[b] = rows whose hash has top bits below b
//   keys   u64[n]           in the order of their hash
//   rows   [n, dim]         float32, or 16 bits that are widened on the way out
//
// A look-up costs three misses (index, keys, row); they are prefetched for a group of ids at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.h"

namespace fleet {

enum class FrozenDtype { kFloat32, kFloat16, kBfloat16 };

struct FrozenTable {
  const uint64_t* index = nullptr;
  unsigned bits = 0;  // 0 to 40
  const uint64_t* keys = nullptr;
  const void* rows = nullptr;
  size_t num_rows = 0;
  size_t dim = 0;
  FrozenDtype dtype = FrozenDtype::kFloat32;
  uint64_t salt = 0;
};

// Writes the rows of ids[count] to out[count, dim] and the positions of ids that have none, whose rows are left as they are, to
// missing[count]. Damaged: the index points outside the table; nothing outside was read.
Status read_frozen(const FrozenTable& table, const uint64_t* ids, size_t count, float* out, int64_t* missing,
                   size_t* num_missing) noexcept;

}  // namespace fleet
