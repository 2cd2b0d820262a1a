#include "index.h"

#include <cstring>

#include "pages.h"

namespace fleet {

alignas(64) const uint64_t Index::kEmptyBucket[8] = {};

Index::~Index() {
  if (limit_ > 0) return_pages(reinterpret_cast<char*>(entries_), (mask_ + 1) * 64);
}

void Index::add(uint64_t hash, uint64_t ref) noexcept {
  uint64_t* bucket = entries_ + (hash & mask_) * 8;
  for (;;) {
    for (int i = 0; i < 8; ++i) {
      if (bucket[i] == 0) {
        bucket[i] = want(hash) | ref;
        ++used_;
        return;
      }
    }
    bucket = const_cast<uint64_t*>(next(bucket));
  }
}

bool Index::grow(const Rows& rows, uint64_t salt) noexcept {
  const bool first = limit_ == 0;
  const uint64_t num_buckets = first ? 2 : (mask_ + 1) * 2;
  const size_t bytes = num_buckets * 64;
  char* fresh = take_pages(bytes);
  if (fresh == nullptr) return false;
  if (bytes >= kHugePageBytes) {
    want_huge_pages(fresh, bytes);
    populate(fresh, bytes);
  }
  if (!first) return_pages(reinterpret_cast<char*>(entries_), (mask_ + 1) * 64);
  entries_ = reinterpret_cast<uint64_t*>(fresh);
  mask_ = num_buckets - 1;
  limit_ = num_buckets * 7;
  const uint64_t count = used_;
  used_ = 0;
  for (uint64_t number = 0; number < count; ++number) {
    const uint64_t ref = rows.ref_of(number);
    uint64_t key;
    std::memcpy(&key, rows.at(ref), sizeof key);
    add(hash_of(key, salt), ref);
  }
  return true;
}

}  // namespace fleet
