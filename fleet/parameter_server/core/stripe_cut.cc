#include "stripe_cut.h"

#include <cstring>
#include <new>

#include "side_memory.h"

namespace fleet {

bool SideRows::add(const char* row, size_t row_bytes) noexcept try {
  row_bytes_ = row_bytes;
  if (chunks_.empty() || chunks_.back().used + row_bytes > chunks_.back().bytes) {
    const size_t bytes = row_bytes < SideMemory::kChunkBytes ? SideMemory::kChunkBytes : row_bytes;
    chunks_.reserve(chunks_.size() + 1);
    char* begin = SideMemory::of_process().take(bytes);
    if (begin == nullptr) return false;
    chunks_.push_back({begin, bytes, 0});
    bytes_ += bytes;
  }
  Chunk& chunk = chunks_.back();
  std::memcpy(chunk.begin + chunk.used, row, row_bytes);
  chunk.used += row_bytes;
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

void SideRows::clear() noexcept {
  for (const Chunk& chunk : chunks_) SideMemory::of_process().give(chunk.begin, chunk.bytes);
  chunks_.clear();
  bytes_ = 0;
}

}  // namespace fleet
