#include "frozen.h"

#include <algorithm>
#include <cstring>

#include "mix.h"

namespace fleet {

namespace {

// Ids whose misses are under way together: more than the 10 to 16 that a core can have outstanding, few enough for the L1 cache.
constexpr size_t kGroup = 32;

float widen_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Without a branch, so that compilers vectorise it; subnormals included (unless the thread flushes them).
float widen_float16(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &magnitude, 4);
  value *= 0x1p112f;
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  wide |= magnitude >= 0x0f800000 ? 0x7f800000u : 0u;  // infinity and NaN
  wide |= static_cast<uint32_t>(bits & 0x8000) << 16;
  std::memcpy(&value, &wide, 4);
  return value;
}

size_t row_bytes(const FrozenTable& table) { return table.dim * (table.dtype == FrozenDtype::kFloat32 ? 4 : 2); }

void copy_row(const FrozenTable& table, size_t row, float* out) {
  const char* from = static_cast<const char*>(table.rows) + row * row_bytes(table);
  if (table.dtype == FrozenDtype::kFloat32) {
    std::memcpy(out, from, 4 * table.dim);
    return;
  }
  const auto* halves = reinterpret_cast<const uint16_t*>(from);
  if (table.dtype == FrozenDtype::kBfloat16) {
    for (size_t j = 0; j < table.dim; ++j) out[j] = widen_bfloat16(halves[j]);
  } else {
    for (size_t j = 0; j < table.dim; ++j) out[j] = widen_float16(halves[j]);
  }
}

}  // namespace

Status read_frozen(const FrozenTable& table, const uint64_t* ids, size_t count, float* out, int64_t* missing,
                   size_t* num_missing) noexcept {
  uint64_t bucket[kGroup];
  uint64_t from[kGroup];
  uint64_t to[kGroup];
  size_t found[kGroup];
  const size_t bytes = row_bytes(table);
  *num_missing = 0;
  for (size_t start = 0; start < count; start += kGroup) {
    const size_t n = std::min(kGroup, count - start);
    for (size_t i = 0; i < n; ++i) {
      const uint64_t hash = hash_of(ids[start + i], table.salt);
      bucket[i] = table.bits == 0 ? 0 : hash >> (64 - table.bits);
      __builtin_prefetch(table.index + bucket[i]);
    }
    for (size_t i = 0; i < n; ++i) {
      from[i] = table.index[bucket[i]];
      to[i] = table.index[bucket[i] + 1];
      if (from[i] > to[i] || to[i] > table.num_rows) {
        return Status::damaged("bucket " + std::to_string(bucket[i]) + " of the index points outside the table");
      }
      __builtin_prefetch(table.keys + from[i]);
      __builtin_prefetch(table.keys + to[i]);
    }
    for (size_t i = 0; i < n; ++i) {
      size_t at = from[i];
      while (at < to[i] && table.keys[at] != ids[start + i]) ++at;
      found[i] = at;
      const char* row = static_cast<const char*>(table.rows) + at * bytes;
      for (size_t b = 0; at < to[i] && b < std::min<size_t>(bytes, 256); b += 64) __builtin_prefetch(row + b);
    }
    for (size_t i = 0; i < n; ++i) {
      if (found[i] < to[i]) {
        copy_row(table, found[i], out + (start + i) * table.dim);
      } else {
        missing[(*num_missing)++] = static_cast<int64_t>(start + i);
      }
    }
  }
  return {};
}

}  // namespace fleet
