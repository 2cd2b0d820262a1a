#include "memory_limit.h"

#include <unistd.h>

#include <cstdio>

namespace fleet {

MemoryLimit& MemoryLimit::of_process() noexcept {
  static MemoryLimit mine;
  return mine;
}

size_t MemoryLimit::left() const noexcept {
  const size_t most = limit() - limit() / 8;
  const size_t resident = resident_bytes();
  return resident < most ? most - resident : 0;
}

size_t resident_bytes() noexcept {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  unsigned long all = 0, resident = 0;
  const bool read = std::fscanf(file, "%lu %lu", &all, &resident) == 2;
  std::fclose(file);
  return read ? resident * static_cast<size_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace fleet
