// Memory straight from the system: zeroed, in huge pages where the system has them, populated ahead of use.
//
// Why: a dependent random load costs about 3 times more on 4 KB pages than on 2 MB pages, and first touch one page at a
// time is what inserting rows would otherwise wait for.
#pragma once

#include <cstddef>

namespace fleet {

constexpr size_t kHugePageBytes = size_t{2} << 20;

// Returns `bytes` of zeroed memory, or nullptr. From kHugePageBytes on it is aligned to kHugePageBytes; below, to 64 bytes.
// Large memory is address space only: pages come when touched or populated.
char* take_pages(size_t bytes) noexcept;

// Gives back what take_pages(bytes) returned. nullptr is allowed.
void return_pages(char* pages, size_t bytes) noexcept;

// Asks for huge pages for [begin, begin + bytes). A wish: systems without them ignore it.
void want_huge_pages(char* begin, size_t bytes) noexcept;

// Backs [begin, begin + bytes) with memory now, in one system call. A wish too: without it pages come by first touch.
void populate(char* begin, size_t bytes) noexcept;

// Joins the 4 KB pages of [begin, begin + bytes) into huge ones now. A wish.
void collapse(char* begin, size_t bytes) noexcept;

// Whether the system grants huge pages to those who ask.
bool huge_pages_granted() noexcept;

}  // namespace fleet
