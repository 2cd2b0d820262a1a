// The memory that a server may take (--server_memory), asked before rows are made: a clear refusal comes before the kernel's kill.
//
// What counts is what the kernel counts, the process's resident memory; a part of the limit is kept for messages.
#pragma once

#include <atomic>
#include <cstddef>

namespace fleet {

class MemoryLimit {
 public:
  static MemoryLimit& of_process() noexcept;
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

  void set(size_t bytes) noexcept { limit_.store(bytes, std::memory_order_relaxed); }  // 0: none
  size_t limit() const noexcept { return limit_.load(std::memory_order_relaxed); }
  // Bytes that tables may still take: the limit, less an eighth for messages and what is under way, less what is resident now.
  // Costs a system call, about 10 us.
  size_t left() const noexcept;

 private:
  MemoryLimit() = default;
  std::atomic<size_t> limit_{0};
};

// Resident memory of this process in bytes; 0 if the system does not say.
size_t resident_bytes() noexcept;

}  // namespace fleet
