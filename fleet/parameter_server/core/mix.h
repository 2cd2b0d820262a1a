// One hash decides everything about where a key lives: its logical shard, its lock stripe, its bucket and its tag.
//
//   63........54 53...50 49.48 47......32 31........0
//   shard (10)   stripe (4)    tag (16)   bucket (low bits)
//
// The four fields do not overlap, so that a server that holds a contiguous range of shards still spreads its keys over
// all stripes and buckets.
#pragma once

#include <cstdint>

namespace fleet {

constexpr uint32_t kNumShards = 1024;
constexpr uint32_t kMaxStripes = 16;

// Bijective mixing of 64 bits: two multiplications and three xor-shifts (the finalizer of MurmurHash3).
inline uint64_t mix64(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}

inline uint64_t hash_of(uint64_t id, uint64_t salt) { return mix64(id ^ salt); }
inline uint32_t shard_of_hash(uint64_t hash) { return static_cast<uint32_t>(hash >> 54); }
inline uint32_t stripe_of_hash(uint64_t hash) { return static_cast<uint32_t>(hash >> 50) & (kMaxStripes - 1); }
inline uint64_t tag_of_hash(uint64_t hash) { return (hash >> 32) & 0xffff; }

}  // namespace fleet
