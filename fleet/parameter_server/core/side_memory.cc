#include "side_memory.h"

#include <chrono>
#include <cstdlib>
#include <new>

namespace fleet {

SideMemory& SideMemory::of_process() noexcept {
  static SideMemory memory;
  return memory;
}

char* SideMemory::take(size_t bytes) noexcept {
  if (given_up()) return nullptr;
  bytes = rounded(bytes);
  char* chunk = nullptr;
  if (bytes == kChunkBytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!spare_.empty()) {
      chunk = spare_.back();
      spare_.pop_back();
    }
  }
  if (chunk == nullptr) chunk = static_cast<char*>(std::malloc(bytes));
  if (chunk != nullptr) used_.fetch_add(bytes, std::memory_order_relaxed);
  return chunk;
}

void SideMemory::give(char* chunk, size_t bytes) noexcept {
  bytes = rounded(bytes);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_.fetch_sub(bytes, std::memory_order_relaxed);
    bool kept = false;
    if (bytes == kChunkBytes && num_cuts_ > 0) {
      try {
        spare_.push_back(chunk);
        kept = true;
      } catch (const std::bad_alloc&) {
      }
    }
    if (!kept) std::free(chunk);
  }
  room_.notify_all();
}

void SideMemory::wait_for_room() noexcept {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!room_.wait_for(lock, std::chrono::duration<double>(patience_s_.load(std::memory_order_relaxed)), [this] { return !full(); })) {
    given_up_.store(true, std::memory_order_relaxed);
  }
}

void SideMemory::enter() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++num_cuts_;
}

void SideMemory::leave() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--num_cuts_ > 0) return;
    for (char* chunk : spare_) std::free(chunk);
    spare_.clear();
    spare_.shrink_to_fit();
    given_up_.store(false, std::memory_order_relaxed);
  }
  room_.notify_all();
}

}  // namespace fleet
