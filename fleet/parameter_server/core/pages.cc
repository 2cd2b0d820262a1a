#include "pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Linux's numbers, for headers older than the kernel that runs (Linux 5.14 and 6.1).
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace fleet {

char* take_pages(size_t bytes) noexcept {
  if (bytes < kHugePageBytes) {
    void* small = nullptr;
    if (posix_memalign(&small, 64, bytes) != 0) return nullptr;
    std::memset(small, 0, bytes);
    return static_cast<char*>(small);
  }
  const size_t room = bytes + kHugePageBytes;
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  const size_t before = (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  if (before > 0) munmap(begin, before);
  // munmap takes whole pages: the end of `bytes` is rounded up by return_pages in the same way.
  char* end = begin + before + bytes;
  const size_t page_rest = (4096 - reinterpret_cast<uintptr_t>(end) % 4096) % 4096;
  const size_t after = kHugePageBytes - before;
  if (after > page_rest) munmap(end + page_rest, after - page_rest);
  return begin + before;
}

void return_pages(char* pages, size_t bytes) noexcept {
  if (pages == nullptr) return;
  if (bytes < kHugePageBytes) {
    std::free(pages);
  } else {
    munmap(pages, bytes);
  }
}

void want_huge_pages(char* begin, size_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  madvise(begin, bytes, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

#ifdef __linux__
void populate(char* begin, size_t bytes) noexcept { madvise(begin, bytes, MADV_POPULATE_WRITE); }
void collapse(char* begin, size_t bytes) noexcept { madvise(begin, bytes, MADV_COLLAPSE); }
#else
void populate(char*, size_t) noexcept {}
void collapse(char*, size_t) noexcept {}
#endif

bool huge_pages_granted() noexcept {
  std::FILE* file = std::fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
  if (file == nullptr) return false;
  char text[64] = {};
  const bool read = std::fgets(text, sizeof text, file) != nullptr;
  std::fclose(file);
  return read && std::strstr(text, "[never]") == nullptr;
}

}  // namespace fleet
