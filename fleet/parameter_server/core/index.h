// The index of one stripe: which row a hash may stand for. Buckets of one cache line, 8 entries, filled from the front; a bucket
// that is full overflows into the next one. An entry is 0 (empty) or one of
//
//   row      {tag 16 | present 1 | 0 | ... | row reference 40}
//   waiting  {tag 16 | 0 | waiting 1 | generation 2 | count 11 | shard 10 | bucket 23}
//
// The index does not hold the keys of rows: a matching tag is a candidate, which the key in the row confirms. False candidates
// come once in about 8000 look-ups, so a look-up costs two cache misses: bucket and row. No key is reserved. At most 7/8 full.
//
// A waiting entry is an id that has no row yet, and how often it was seen. It has no key either, but 53 of its hash's 64 bits,
// the stripe's four included: among W waiting ids of a stripe a new id is taken for one of them once in 2^49 / W times
// (W = 10 million on one server: once in 56 million new ids), and then only begins with that one's count.
// Not thread-safe: the stripe's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mix.h"
#include "rows.h"

namespace fleet {

class Index {
 public:
  static constexpr uint64_t kPresent = uint64_t{1} << 47;  // flag of a row's entry
  static constexpr uint64_t kRefMask = (uint64_t{1} << 40) - 1;
  static constexpr uint64_t kTagMask = uint64_t{0xffff} << 48;
  static constexpr uint64_t kWantMask = kTagMask | kPresent;

  static constexpr uint64_t kWaiting = uint64_t{1} << 46;
  static constexpr int kGenerationShift = 44;
  static constexpr int kCountShift = 33;
  static constexpr uint32_t kMaxCount = 2047;  // counts stop here
  static constexpr uint64_t kHomeMask = (uint64_t{1} << 23) - 1;
  static constexpr uint64_t kWaitingMask = kTagMask | kPresent | kWaiting | ((uint64_t{1} << kCountShift) - 1);

  Index() = default;
  ~Index();
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  // What a row's entry of this hash looks like under kWantMask.
  static uint64_t want(uint64_t hash) { return (tag_of_hash(hash) << 48) | kPresent; }
  // What a waiting entry of this hash looks like under kWaitingMask.
  static uint64_t want_waiting(uint64_t hash) {
    return (tag_of_hash(hash) << 48) | kWaiting | uint64_t{shard_of_hash(hash)} << 23 | (hash & kHomeMask);
  }
  // The hash of a waiting entry of a stripe, as far as it is known; the other bits are 0.
  static constexpr uint64_t kKnownOfHash = ~(((uint64_t{1} << 32) - 1) & ~kHomeMask) & ~(uint64_t{3} << 48);
  static uint64_t hash_of_waiting(uint64_t entry, uint32_t stripe) {
    return (entry >> 23 & 1023) << 54 | uint64_t{stripe} << 50 | (entry >> 48) << 32 | (entry & kHomeMask);
  }
  static uint32_t count_of(uint64_t entry) { return static_cast<uint32_t>(entry >> kCountShift) & kMaxCount; }
  static uint32_t generation_of(uint64_t entry) { return static_cast<uint32_t>(entry >> kGenerationShift) & 3; }
  // Not seen for a whole generation: what was counted is forgotten. A sweep that missed an entry which moved has one more lap for it.
  static bool is_stale(uint64_t entry, uint32_t generation) { return ((generation - generation_of(entry)) & 3) >= 2; }
  static uint64_t with_count(uint64_t entry, uint32_t count, uint32_t generation) {
    return (entry & kWaitingMask) | uint64_t{count} << kCountShift | uint64_t{generation & 3} << kGenerationShift;
  }

  const uint64_t* bucket(uint64_t hash) const { return entries_ + (hash & mask_) * 8; }
  const uint64_t* next(const uint64_t* bucket) const {
    return bucket == entries_ + mask_ * 8 ? entries_ : bucket + 8;
  }

  // Makes room for one more entry; grows to twice the buckets by reading the keys in `rows` in order of their places.
  // Returns false if the system has no memory, or waiting ids would need more buckets than they can name; then nothing changed.
  bool reserve_one(const Rows& rows, uint64_t salt) noexcept {
    return used_ < limit_ || grow(rows, salt);
  }
  // Of an empty index: makes room for `count` entries at once, which saves it from growing step by step. Without memory nothing changes.
  void reserve(uint64_t count) noexcept;

  // Adds a row's entry. reserve_one() was called before, and no entry of this key is present.
  void add(uint64_t hash, uint64_t ref) noexcept { place(hash & mask_, want(hash) | ref); }

  // Adds a waiting entry, under the same conditions.
  void add_waiting(uint64_t entry) noexcept {
    ++waiting_;
    place(entry & kHomeMask & mask_, entry);
  }
  bool can_wait() const { return mask_ <= kHomeMask; }

  // Returns the waiting entry of a hash, or nullptr.
  uint64_t* find_waiting(uint64_t hash) noexcept;

  // Removes an entry of this index. Later entries that had overflowed past it move up, so that no trace of it is left and
  // look-ups stay as short as if it had never been there.
  void erase(uint64_t* entry, const Rows& rows, uint64_t salt) noexcept;
  // Removes the entry of a row, whose key is still in it, and returns the row's reference.
  uint64_t erase_row(uint64_t hash, const char* row, const Rows& rows, uint64_t salt) noexcept;

  size_t memory_bytes() const { return (mask_ + 1) * 64 * (limit_ > 0); }
  // Whether `more` entries would make it grow.
  bool nearly_full(uint64_t more) const { return used_ + more > limit_; }
  uint64_t used() const { return used_; }        // rows and waiting ids
  uint64_t num_waiting() const { return waiting_; }
  uint64_t num_places() const { return limit_ > 0 ? (mask_ + 1) * 8 : 0; }
  uint64_t* place_at(uint64_t number) { return entries_ + number; }

 private:
  bool grow(const Rows& rows, uint64_t salt) noexcept;
  void place(uint64_t home, uint64_t entry) noexcept;
  uint64_t home_of(uint64_t entry, const Rows& rows, uint64_t salt) const noexcept;

  uint64_t* entries_ = const_cast<uint64_t*>(kEmptyBucket);
  uint64_t mask_ = 0;  // number of buckets - 1
  uint64_t used_ = 0;
  uint64_t waiting_ = 0;
  uint64_t limit_ = 0;  // 7/8 of the entries

  alignas(64) static const uint64_t kEmptyBucket[8];  // what an index without memory of its own looks up in
};

}  // namespace fleet
