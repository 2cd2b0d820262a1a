// The CRC-32 of zlib, so that Python's zlib.crc32 can check what the core wrote.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fleet {

// Continues `crc` (0 to begin with) over `bytes` more bytes.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes) noexcept;

// The CRC of A followed by B, from the CRC of A, the CRC of B and the length of B.
uint32_t crc32_join(uint32_t first, uint32_t second, uint64_t second_bytes) noexcept;

}  // namespace fleet
