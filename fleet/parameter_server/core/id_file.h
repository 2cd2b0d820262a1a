// Safetensors files beside those of rows:
//
//   removed: keys U64[n]                                       keys that lost their rows since the parent
//   waiting: hashes U64[n], counts U16[n], generations U8[n]   ids that have been seen and have no row: what the index keeps of each
//   metadata: format, salt
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "safetensors.h"
#include "snapshot.h"
#include "status.h"

namespace fleet {

// A waiting id: the bits of its hash that Index keeps (the others 0), sightings, and when it was seen last.
struct WaitingId {
  uint64_t hash;
  uint16_t count;
  uint8_t generation;
};

constexpr const char* kRemovedFormat = "fleet.removed.1";
constexpr const char* kWaitingFormat = "fleet.waiting.1";

// Writes a file and waits for the disk.
Status write_removed(const std::vector<uint64_t>& keys, uint64_t salt, const std::string& path, SavedFile* saved);
Status write_waiting(const std::vector<WaitingId>& ids, uint64_t salt, const std::string& path, SavedFile* saved);

// Checks that a header describes such a file of this table and covers all of its `data_bytes`; sets the number of ids.
Status check_removed(const SafetensorsHeader& header, uint64_t salt, uint64_t data_bytes, uint64_t* num_keys);
Status check_waiting(const SafetensorsHeader& header, uint64_t salt, uint64_t data_bytes, uint64_t* num_ids);

}  // namespace fleet
