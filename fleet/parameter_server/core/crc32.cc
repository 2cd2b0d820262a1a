#include "crc32.h"

#include <array>
#include <cstring>

namespace fleet {

namespace {

constexpr uint32_t kPolynomial = 0xedb88320u;  // reflected, as zlib and Ethernet have it
constexpr int kSlices = 16;

using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
    tables[0][i] = crc;
  }
  for (size_t slice = 1; slice < kSlices; ++slice) {
    for (uint32_t i = 0; i < 256; ++i) {
      const uint32_t before = tables[slice - 1][i];
      tables[slice][i] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

// a * b modulo the polynomial, bits reflected.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ (b & 1 ? kPolynomial : 0);
  }
  return product;
}

}  // namespace

// Slicing by 16: sixteen bytes a step, one table each. Little-endian loads, as on every CPU that fleet is built for.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes) noexcept {
  const auto* at = static_cast<const unsigned char*>(data);
  crc = ~crc;
  for (; bytes >= kSlices; bytes -= kSlices, at += kSlices) {
    uint32_t words[4];
    std::memcpy(words, at, sizeof words);
    words[0] ^= crc;
    crc = 0;
    for (size_t w = 0; w < 4; ++w) {
      for (size_t byte = 0; byte < 4; ++byte) crc ^= kTables[kSlices - 1 - (4 * w + byte)][(words[w] >> (8 * byte)) & 0xff];
    }
  }
  for (; bytes > 0; --bytes, ++at) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

uint32_t crc32_join(uint32_t first, uint32_t second, uint64_t second_bytes) noexcept {
  // Appending one byte multiplies the CRC by x^8; the power comes by squaring.
  uint32_t power = 0x80000000u;   // x^0
  uint32_t square = 0x00800000u;  // x^8
  for (; second_bytes > 0; second_bytes >>= 1) {
    if (second_bytes & 1) power = multiply(power, square);
    square = multiply(square, square);
  }
  return multiply(power, first) ^ second;
}

}  // namespace fleet
