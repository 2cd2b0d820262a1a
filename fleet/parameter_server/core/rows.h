// The row memory of one stripe. A row begins with its key; Schema says what follows. Rows are packed: the distance between
// rows is a multiple of 4 bytes, never padded to cache lines (padding gains nothing: benchmarks/dead_ends.md).
//
// Rows are appended and never move. They live in slabs of 4 MB; a reference is the slab's number and the offset in it in
// units of 4 bytes, so that finding a row takes a shift and an addition. Not thread-safe: the stripe's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fleet {

class Rows {
 public:
  static constexpr uint64_t kNone = ~uint64_t{0};
  static constexpr int kSlabShift = 20;  // in units of 4 bytes
  static constexpr size_t kSlabBytes = size_t{4} << kSlabShift;
  static constexpr size_t kMaxRowBytes = kSlabBytes / 4;

  // `row_bytes` is a multiple of 4 and at most kMaxRowBytes.
  explicit Rows(size_t row_bytes);
  ~Rows();
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // Appends a zeroed row and returns its reference (below 2^40), or kNone if the system has no memory.
  uint64_t append() noexcept {
    if (offset_ + row_bytes_ > ready_ && !make_ready()) return kNone;
    const uint64_t ref = (current_ << kSlabShift) + offset_ / 4;
    offset_ += row_bytes_;
    ++size_;
    return ref;
  }

  char* at(uint64_t ref) const {
    return slabs_[ref >> kSlabShift] + ((ref & ((uint64_t{1} << kSlabShift) - 1)) << 2);
  }

  uint64_t size() const { return size_; }
  // The reference of the `number`-th row in order of creation, number < size().
  uint64_t ref_of(uint64_t number) const {
    return ((number / rows_per_slab_) << kSlabShift) + (number % rows_per_slab_) * (row_bytes_ / 4);
  }
  // Bytes that rows occupy or are populated for. Address space that has no memory behind it is not counted.
  size_t memory_bytes() const { return populated_bytes_; }

 private:
  // Makes room for one more row at offset_: populates ahead, or opens the next slab.
  bool make_ready() noexcept;
  bool open_slab() noexcept;

  struct Region {
    char* begin;
    size_t bytes;
  };
  const size_t row_bytes_;
  const uint64_t rows_per_slab_;
  std::vector<char*> slabs_;     // start of each slab
  std::vector<Region> regions_;  // what was taken from the system: 1, 1, 2, 4, 8, 16, 16... slabs
  uint64_t current_ = 0;         // slab that is being filled
  size_t offset_ = 0;            // where in it the next row goes
  size_t ready_ = 0;             // how far it is populated
  uint64_t size_ = 0;
  size_t populated_bytes_ = 0;
};

}  // namespace fleet
