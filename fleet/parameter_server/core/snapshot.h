// A table's rows in a safetensors file, and back. Bounded memory in both directions: 64 MB of buffers and some.
//
//   keys    U64[n]             sorted by logical shard
//   weights F32[n, dim]
//   state   F32[n, state_dim]  absent if state_dim is 0
//   metadata: format, optimizer, dim, state_dim, salt, shard_low, shard_high
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "status.h"
#include "table.h"

namespace fleet {

struct Saved {
  uint64_t rows = 0;
  uint64_t bytes = 0;                         // of the file
  std::map<std::string, uint32_t> checksums;  // tensor -> CRC-32 of its bytes
};

// Writes the rows of shards [shard_low, shard_high) that exist when the call begins. Pulls and pushes go on meanwhile: a stripe is
// held for a few hundred rows at a time, and each row is whole. On failure no file is left.
Status save_table(Table& table, const std::string& path, uint32_t shard_low, uint32_t shard_high, Saved* saved) noexcept;

// Inserts the rows whose shard is in keep[kNumShards]. Everything is verified in a first pass over the file; the second inserts.
Status load_table(Table& table, const std::string& path, const bool* keep, const std::map<std::string, uint32_t>& checksums,
                  uint64_t* num_rows) noexcept;

}  // namespace fleet
