// The index of one stripe: which row a hash may stand for. Buckets of one cache line, 8 entries of
// {tag 16 bits | flags 8 bits | row reference 40 bits}; a bucket that is full overflows into the next one.
//
// The index does not hold keys: a matching tag is a candidate, which the key in the row confirms. False candidates come once
// in about 8000 look-ups, so a look-up costs two cache misses: bucket and row. No key is reserved. At most 7/8 full.
// Not thread-safe: the stripe's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mix.h"
#include "rows.h"

namespace fleet {

class Index {
 public:
  static constexpr uint64_t kPresent = uint64_t{1} << 40;  // flag of an entry in use; an empty entry is 0
  static constexpr uint64_t kRefMask = kPresent - 1;
  static constexpr uint64_t kWantMask = (uint64_t{0xffff} << 48) | kPresent;

  Index() = default;
  ~Index();
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  // What an entry of this hash looks like under kWantMask.
  static uint64_t want(uint64_t hash) { return (tag_of_hash(hash) << 48) | kPresent; }

  const uint64_t* bucket(uint64_t hash) const { return entries_ + (hash & mask_) * 8; }
  const uint64_t* next(const uint64_t* bucket) const {
    return bucket == entries_ + mask_ * 8 ? entries_ : bucket + 8;
  }

  // Makes room for one more entry; grows to twice the buckets by reading the keys in `rows` in order of creation.
  // Returns false if the system has no memory; then nothing changed.
  bool reserve_one(const Rows& rows, uint64_t salt) noexcept {
    return used_ < limit_ || grow(rows, salt);
  }

  // Adds an entry. reserve_one() was called before, and no entry of this key is present.
  void add(uint64_t hash, uint64_t ref) noexcept;

  size_t memory_bytes() const { return (mask_ + 1) * 64 * (entries_ != nullptr); }

 private:
  bool grow(const Rows& rows, uint64_t salt) noexcept;

  uint64_t* entries_ = const_cast<uint64_t*>(kEmptyBucket);
  uint64_t mask_ = 0;  // number of buckets - 1
  uint64_t used_ = 0;
  uint64_t limit_ = 0;  // 7/8 of the entries

  alignas(64) static const uint64_t kEmptyBucket[8];  // what an index without memory of its own looks up in
};

}  // namespace fleet
