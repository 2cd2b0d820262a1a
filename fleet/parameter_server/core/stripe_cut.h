// One stripe's part of a cut: which of its rows a snapshot still has to write, and copies of those that changed meanwhile.
//
// A cut takes the rows whose epoch lies in (after, until]. It raises the stripe's epoch above `until`, so a row's epoch tells
// whether it has changed since: then its copy is here. The writer walks the rows in order; what lies behind it needs no copy.
// Not thread-safe: the stripe's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace fleet {

// Copies of rows, in chunks of SideMemory.
class SideRows {
 public:
  SideRows() = default;
  ~SideRows() { clear(); }
  SideRows(SideRows&& other) noexcept { swap(other); }
  SideRows& operator=(SideRows&& other) noexcept {
    swap(other);
    other.clear();
    return *this;
  }

  bool add(const char* row, size_t row_bytes) noexcept;  // false: no memory, or the snapshot was given up
  void clear() noexcept;
  bool empty() const { return chunks_.empty(); }
  size_t bytes() const { return bytes_; }

  // Calls work(row) for each row.
  template <class Work>
  void each(const Work& work) const {
    for (const Chunk& chunk : chunks_) {
      for (size_t at = 0; at + row_bytes_ <= chunk.used; at += row_bytes_) work(chunk.begin + at);
    }
  }

 private:
  void swap(SideRows& other) noexcept {
    chunks_.swap(other.chunks_);
    std::swap(row_bytes_, other.row_bytes_);
    std::swap(bytes_, other.bytes_);
  }

  struct Chunk {
    char* begin;
    size_t bytes;
    size_t used;
  };
  std::vector<Chunk> chunks_;
  size_t row_bytes_ = 0;
  size_t bytes_ = 0;
};

struct StripeCut {
  bool active = false;
  bool failed = false;  // a copy was not made: the snapshot cannot be whole
  uint16_t after = 0;
  uint16_t until = 0;
  uint64_t next = 0;      // the writer's place, as a row's number
  uint64_t next_ref = 0;  // and as its reference
  uint64_t limit = 0;     // number of rows when the cut was made
  SideRows side;
  bool waiting = false;            // the waiting ids are yet to be copied
  std::vector<uint64_t> changed;   // their entries before they changed, the oldest first; of one that was not there, without its flag

  bool holds(uint16_t epoch) const { return epoch > after && epoch <= until; }

  // The row is about to change, or to go, for the first time since the cut.
  void keep(uint64_t ref, const char* row, size_t row_bytes) noexcept {
    if (ref >= next_ref && !failed && !side.add(row, row_bytes)) failed = true;
  }

  // A waiting entry is about to change, to go, or to come.
  void keep_waiting(uint64_t entry) noexcept try {
    if (waiting && !failed) changed.push_back(entry);
  } catch (const std::bad_alloc&) {
    failed = true;
  }
};

}  // namespace fleet
