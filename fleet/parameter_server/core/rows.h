// The row memory of one stripe. A row begins with its key; Schema says what follows. Rows are packed: the distance between
// rows is a multiple of 4 bytes, never padded to cache lines (padding gains nothing: benchmarks/dead_ends.md).
//
// Rows are appended and never move. They live in slabs of 4 MB; a reference is the slab's number and the offset in it in
// units of 4 bytes, so that finding a row takes a shift and an addition. The place of a row that was released is taken by
// a later one; its memory stays with the table. A free place has epoch 0 (see schema.h), and whoever goes through the places
// passes over it. Not thread-safe: the stripe's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fleet {

class Rows {
 public:
  static constexpr uint64_t kNone = ~uint64_t{0};
  static constexpr int kSlabShift = 20;  // in units of 4 bytes
  static constexpr size_t kSlabBytes = size_t{4} << kSlabShift;
  static constexpr size_t kMaxRowBytes = kSlabBytes / 4;

  static constexpr size_t kEpochOffset = 8;  // in every row

  // `row_bytes` is a multiple of 4, at least 12 and at most kMaxRowBytes.
  explicit Rows(size_t row_bytes);
  ~Rows();
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // Returns the reference (below 2^40) of a zeroed row, or kNone if the system has no memory. The caller sets its epoch.
  uint64_t append() noexcept {
    if (free_ != kNone) return reuse();
    if (offset_ + row_bytes_ > ready_ && !make_ready()) return kNone;
    const uint64_t ref = (current_ << kSlabShift) + offset_ / 4;
    offset_ += row_bytes_;
    ++size_;
    ++num_places_;
    return ref;
  }

  // Frees the place of a row.
  void release(uint64_t ref) noexcept {
    char* row = at(ref);
    std::memset(row, 0, row_bytes_);
    std::memcpy(row, &free_, sizeof free_);
    free_ = ref;
    --size_;
  }

  bool is_free(uint64_t ref) const {
    uint16_t epoch;
    std::memcpy(&epoch, at(ref) + kEpochOffset, sizeof epoch);
    return epoch == 0;
  }

  char* at(uint64_t ref) const {
    return slabs_[ref >> kSlabShift] + ((ref & ((uint64_t{1} << kSlabShift) - 1)) << 2);
  }

  uint64_t size() const { return size_; }  // rows in use
  uint64_t num_places() const { return num_places_; }
  // The reference of the `number`-th place in order of creation, number < num_places().
  uint64_t ref_of(uint64_t number) const {
    return ((number / rows_per_slab_) << kSlabShift) + (number % rows_per_slab_) * (row_bytes_ / 4);
  }
  // Bytes that rows occupy or are populated for. Address space that has no memory behind it is not counted.
  size_t memory_bytes() const { return populated_bytes_; }

 private:
  // Makes room for one more row at offset_: populates ahead, or opens the next slab.
  bool make_ready() noexcept;
  uint64_t reuse() noexcept {
    const uint64_t ref = free_;
    std::memcpy(&free_, at(ref), sizeof free_);
    std::memset(at(ref), 0, sizeof free_);
    ++size_;
    return ref;
  }
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
  uint64_t num_places_ = 0;
  uint64_t free_ = kNone;        // the place freed last; each free place begins with the one freed before it
  size_t populated_bytes_ = 0;
};

}  // namespace fleet
