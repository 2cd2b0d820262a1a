// The CRC-32 of zlib, so that Python's zlib.crc32 can check what the core wrote.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fleet {

// Continues `crc` (0 to begin with) over `bytes` more bytes.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes) noexcept;

}  // namespace fleet
