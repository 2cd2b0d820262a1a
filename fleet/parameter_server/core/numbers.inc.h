// Float32 from and to 16 bits. Included into kernels.inc.h, once for each SIMD level; the compiler makes vectors of the loops.
// Integer arithmetic and what IEEE fixes, so that all levels give the same bits, with or without denormals flushed.

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float from_bfloat16(uint16_t value) { return float_of(uint32_t{value} << 16); }

inline float from_float16(uint16_t value) {
  const uint32_t sign = (value & 0x8000u) << 16;
  const uint32_t rest = value & 0x7fffu;
  const uint32_t normal = (rest << 13) + (112u << 23);
  const uint32_t special = (rest << 13) | 0x7f800000u;
  const uint32_t tiny = bits_of(static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24f);  // a denormal of 16 bits
  const uint32_t found = rest < 0x400u ? tiny : (rest >= 0x7c00u ? special : normal);
  return float_of(sign | found);
}

// To nearest, ties to even. What is too large becomes infinite.
inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

inline uint16_t to_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t rest = bits & 0x7fffffffu;
  const uint32_t normal = (rest + 0xfffu + ((rest >> 13) & 1u) - (112u << 23)) >> 13;
  const uint32_t tiny = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;  // 0.5 has its last bit at 2^-24
  const uint32_t large = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t found = rest < 0x38800000u ? tiny : (rest >= 0x47800000u ? large : normal);
  return static_cast<uint16_t>(sign | found);
}

// Stochastic rounding: up or down with the chance that makes the mean exact; finite values stay finite. `random`: 32 bits.
inline uint16_t to_bfloat16(float value, uint32_t random) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t rest = bits & 0x7fffffffu;
  const uint32_t most = rest > 0x7f7f0000u ? 0x7f7f0000u : rest;
  const uint32_t found = rest > 0x7f800000u ? 0x7fc0u : (most + (random >> 16)) >> 16;
  return static_cast<uint16_t>(sign | found);
}

inline uint16_t to_float16(float value, uint32_t random) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t rest = bits & 0x7fffffffu;
  const uint32_t most = rest > 0x477fe000u ? 0x477fe000u : rest;  // 65504
  const uint32_t normal = (most + (random >> 19) - (112u << 23)) >> 13;
  const float share = static_cast<float>(static_cast<int32_t>(random >> 16)) * 0x1p-16f;
  const float small = rest < 0x38800000u ? float_of(rest) * 0x1p24f : 0.0f;
  const auto tiny = static_cast<uint32_t>(static_cast<int32_t>(small + share));
  const uint32_t found = rest > 0x7f800000u ? 0x7e00u : (rest < 0x38800000u ? tiny : normal);
  return static_cast<uint16_t>(sign | found);
}

// The j-th of a row's random numbers.
// Source: C. Wellons, "Prospecting for hash functions", 2018: the mixer lowbias32.
inline uint32_t random_of(uint32_t seed, size_t j) {
  uint32_t x = seed + (static_cast<uint32_t>(j) + 1u) * 0x9e3779b9u;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

inline uint16_t load_16(const char* from, size_t j) {
  uint16_t value;
  std::memcpy(&value, from + 2 * j, sizeof value);
  return value;
}

inline void store_16(char* to, size_t j, uint16_t value) { std::memcpy(to + 2 * j, &value, sizeof value); }

// Reads `count` stored numbers as floats.
void load_numbers(Number number, const char* __restrict from, size_t count, float* __restrict to) {
  if (count == 0) return;
  switch (number) {
    case Number::kFloat32: std::memcpy(to, from, count * sizeof(float)); break;
    case Number::kBfloat16:
      for (size_t j = 0; j < count; ++j) to[j] = from_bfloat16(load_16(from, j));
      break;
    case Number::kFloat16:
      for (size_t j = 0; j < count; ++j) to[j] = from_float16(load_16(from, j));
      break;
  }
}

// Stores floats, rounded to nearest.
void store_numbers(Number number, const float* __restrict from, size_t count, char* __restrict to) {
  if (count == 0) return;
  switch (number) {
    case Number::kFloat32: std::memcpy(to, from, count * sizeof(float)); break;
    case Number::kBfloat16:
      for (size_t j = 0; j < count; ++j) store_16(to, j, to_bfloat16(from[j]));
      break;
    case Number::kFloat16:
      for (size_t j = 0; j < count; ++j) store_16(to, j, to_float16(from[j]));
      break;
  }
}

// Stores floats, rounded at random.
inline void store_random(Number number, const float* __restrict from, size_t count, char* __restrict to, uint32_t seed) {
  switch (number) {
    case Number::kFloat32: store_numbers(number, from, count, to); break;
    case Number::kBfloat16:
      for (size_t j = 0; j < count; ++j) store_16(to, j, to_bfloat16(from[j], random_of(seed, j)));
      break;
    case Number::kFloat16:
      for (size_t j = 0; j < count; ++j) store_16(to, j, to_float16(from[j], random_of(seed, j)));
      break;
  }
}
