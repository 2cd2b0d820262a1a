// The values of a new row, from (seed, salt, id, column) alone: the same on any server, after any retry, with any SIMD level.
//
// Counter-based: row = mix64(id + mix64(mix64(seed) ^ salt)); the columns 2 c and 2 c + 1 take the low and the high 32 bits of
// mix64(row + (c + 1) * golden). Only +, -, *, / and sqrt in a fixed order, so that no libm decides a weight.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "mix.h"
#include "schema.h"

namespace fleet {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

inline uint64_t stream_of_table(const Schema& schema) { return mix64(mix64(schema.seed) ^ schema.salt); }

// The standard normal quantile of (bits + 0.5) / 2^32; |result| < 6.4. Absolute error below 1e-8 (a test compares it).
float normal_of_bits(uint32_t bits) noexcept;

// Writes the `dim` initial weights of `id`. Inline, so that each SIMD level compiles its own (the results are equal).
inline void write_initial_weights(const Schema& schema, uint64_t id, float* weights) {
  if (schema.initializer == Initializer::kConstant) {
    for (size_t j = 0; j < schema.dim; ++j) weights[j] = schema.init_a;
    return;
  }
  const uint64_t row = mix64(id + stream_of_table(schema));
  const float range = schema.init_b - schema.init_a;
  for (size_t j = 0; j < schema.dim; j += 2) {
    const uint64_t bits = mix64(row + (j / 2 + 1) * kGolden);
    const uint32_t halves[2] = {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
    for (size_t k = 0; k < 2 && j + k < schema.dim; ++k) {
      weights[j + k] = schema.initializer == Initializer::kUniform
                           ? schema.init_a + range * (static_cast<float>(halves[k] >> 8) * 0x1p-24f)
                           : schema.init_a + schema.init_b * normal_of_bits(halves[k]);
    }
  }
}

}  // namespace fleet
