#include "index.h"

#include <cstring>

#include "pages.h"

namespace fleet {

alignas(64) const uint64_t Index::kEmptyBucket[8] = {};

Index::~Index() {
  if (limit_ > 0) return_pages(reinterpret_cast<char*>(entries_), (mask_ + 1) * 64);
}

void Index::place(uint64_t home, uint64_t entry) noexcept {
  uint64_t* bucket = entries_ + home * 8;
  for (;;) {
    for (int i = 0; i < 8; ++i) {
      if (bucket[i] == 0) {
        bucket[i] = entry;
        ++used_;
        return;
      }
    }
    bucket = const_cast<uint64_t*>(next(bucket));
  }
}

uint64_t* Index::find_waiting(uint64_t hash) noexcept {
  if (waiting_ == 0) return nullptr;
  const uint64_t want = want_waiting(hash);
  for (const uint64_t* at = bucket(hash);; at = next(at)) {
    for (int i = 0; i < 8; ++i) {
      if (at[i] == 0) return nullptr;
      if ((at[i] & kWaitingMask) == want) return const_cast<uint64_t*>(at + i);
    }
  }
}

uint64_t Index::home_of(uint64_t entry, const Rows& rows, uint64_t salt) const noexcept {
  if ((entry & kPresent) == 0) return entry & kHomeMask & mask_;
  uint64_t key;
  std::memcpy(&key, rows.at(entry & kRefMask), sizeof key);
  return hash_of(key, salt) & mask_;
}

void Index::erase(uint64_t* entry, const Rows& rows, uint64_t salt) noexcept {
  --used_;
  waiting_ -= (*entry & kPresent) == 0;
  uint64_t hole = static_cast<uint64_t>(entry - entries_) / 8;  // the bucket that has a gap
  uint64_t* gap = entry;
  bool full = entries_[hole * 8 + 7] != 0;  // the bucket looked at last: if not, no entry has overflowed past it
  for (uint64_t at = hole; full;) {
    at = (at + 1) & mask_;
    if (at == hole) break;  // every bucket was full: cannot be at 7/8
    uint64_t* const bucket = entries_ + at * 8;
    full = bucket[7] != 0;
    for (int i = 0; i < 8 && bucket[i] != 0; ++i) {
      const uint64_t home = home_of(bucket[i], rows, salt);
      if (((at - home) & mask_) < ((at - hole) & mask_)) continue;  // its own bucket lies behind the gap's
      *gap = bucket[i];
      gap = bucket + i;
      hole = at;
      break;
    }
  }
  uint64_t* last = entries_ + hole * 8 + 7;
  while (*last == 0) --last;
  *gap = *last;  // buckets stay filled from the front
  *last = 0;
}

uint64_t Index::erase_row(uint64_t hash, const char* row, const Rows& rows, uint64_t salt) noexcept {
  const uint64_t wanted = want(hash);
  for (const uint64_t* at = bucket(hash);; at = next(at)) {
    for (int i = 0; i < 8; ++i) {
      if (at[i] == 0) return Rows::kNone;  // it is not here: a bug of the caller
      const uint64_t ref = at[i] & kRefMask;
      if ((at[i] & kWantMask) != wanted || rows.at(ref) != row) continue;
      erase(const_cast<uint64_t*>(at + i), rows, salt);
      return ref;
    }
  }
}

void Index::reserve(uint64_t count) noexcept {
  uint64_t num_buckets = 2;
  while (num_buckets * 7 < count) num_buckets *= 2;
  if (used_ > 0 || num_buckets - 1 <= mask_) return;
  char* fresh = take_pages(num_buckets * 64);
  if (fresh == nullptr) return;
  if (num_buckets * 64 >= kHugePageBytes) want_huge_pages(fresh, num_buckets * 64);
  if (limit_ > 0) return_pages(reinterpret_cast<char*>(entries_), (mask_ + 1) * 64);
  entries_ = reinterpret_cast<uint64_t*>(fresh);
  mask_ = num_buckets - 1;
  limit_ = num_buckets * 7;
}

bool Index::grow(const Rows& rows, uint64_t salt) noexcept {
  const bool first = limit_ == 0;
  const uint64_t num_buckets = first ? 2 : (mask_ + 1) * 2;
  if (waiting_ > 0 && num_buckets - 1 > kHomeMask) return false;
  const size_t bytes = num_buckets * 64;
  char* fresh = take_pages(bytes);
  if (fresh == nullptr) return false;
  if (bytes >= kHugePageBytes) {
    want_huge_pages(fresh, bytes);
    populate(fresh, bytes);
  }
  uint64_t* const old = entries_;
  const uint64_t old_places = first ? 0 : (mask_ + 1) * 8;
  const uint64_t num_rows = used_ - waiting_;
  entries_ = reinterpret_cast<uint64_t*>(fresh);
  mask_ = num_buckets - 1;
  limit_ = num_buckets * 7;
  used_ = 0;
  if (waiting_ > 0) {
    for (uint64_t i = 0; i < old_places; ++i) {
      if ((old[i] & kWaiting) != 0) place(old[i] & kHomeMask & mask_, old[i]);
    }
  }
  if (!first) return_pages(reinterpret_cast<char*>(old), old_places * 8);
  // Rows in order of their places: reading their keys is what costs, and so it is one long read.
  const uint64_t end = used_ + num_rows;
  for (uint64_t number = 0; used_ < end; ++number) {
    const uint64_t ref = rows.ref_of(number);
    if (rows.is_free(ref)) continue;
    uint64_t key;
    std::memcpy(&key, rows.at(ref), sizeof key);
    add(hash_of(key, salt), ref);
  }
  return true;
}

}  // namespace fleet
