#include "rows.h"

#include <algorithm>
#include <new>

#include "pages.h"

namespace fleet {

Rows::Rows(size_t row_bytes) : row_bytes_(row_bytes), rows_per_slab_(kSlabBytes / row_bytes) {}

Rows::~Rows() {
  for (const Region& region : regions_) return_pages(region.begin, region.bytes);
}

bool Rows::open_slab() noexcept {
  if (!slabs_.empty() && current_ + 1 < slabs_.size()) {
    ++current_;
    return true;
  }
  // Regions double up to 64 MB: few mappings for a large table, little address space for a small one.
  const size_t num_slabs = regions_.empty() ? 1 : std::min<size_t>(16, slabs_.size());
  const size_t bytes = num_slabs * kSlabBytes;
  char* begin = nullptr;
  try {
    slabs_.reserve(slabs_.size() + num_slabs);
    regions_.reserve(regions_.size() + 1);
    begin = take_pages(bytes);
  } catch (const std::bad_alloc&) {
    return false;
  }
  if (begin == nullptr) return false;
  // The first 2 MB of a stripe stay in small pages until they are full: a small table must stay small.
  const size_t small = slabs_.empty() ? kHugePageBytes : 0;
  want_huge_pages(begin + small, bytes - small);
  current_ = slabs_.size();
  for (size_t i = 0; i < num_slabs; ++i) slabs_.push_back(begin + i * kSlabBytes);
  regions_.push_back({begin, bytes});
  return true;
}

bool Rows::make_ready() noexcept {
  if (slabs_.empty() || offset_ + row_bytes_ > kSlabBytes) {
    if (!open_slab()) return false;
    offset_ = 0;
    ready_ = 0;
  }
  char* slab = slabs_[current_];
  while (ready_ < offset_ + row_bytes_) {
    // 4, 4, 8, 16... KB in the first 2 MB of a stripe, one huge page at a time after that.
    const bool growing = current_ == 0 && ready_ < kHugePageBytes;
    const size_t step = growing ? std::max<size_t>(4096, ready_) : kHugePageBytes;
    populate(slab + ready_, step);
    ready_ += step;
    populated_bytes_ += step;
    if (growing && ready_ == kHugePageBytes) collapse(slab, kHugePageBytes);
  }
  return true;
}

}  // namespace fleet
