// Tables in files and back.
//
// Saving is a cut and a writing. The cut takes all rows of several tables at one moment, in microseconds; the writing streams them
// to files while pulls and pushes go on. Memory: two buffers of `file_bytes`, and SideMemory's bound for rows that change meanwhile.
// A table's rows lie in as many files as it takes, in no order; row_file.h says how, and id_file.h what lies beside them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "status.h"
#include "table.h"

namespace fleet {

constexpr size_t kFileBytes = size_t{64} << 20;  // of rows in one file, if nobody says otherwise

struct SavedFile {
  enum class Holds { kRows, kRemoved, kWaiting };
  Holds holds = Holds::kRows;
  std::string path;
  uint64_t rows = 0;
  uint64_t bytes = 0;                         // of the file
  std::map<std::string, uint32_t> checksums;  // tensor -> CRC-32 of its bytes
};

class Cut {
 public:
  // Cuts: from now on write() sees the rows as they are at this moment. `after[i]`: of table i only rows that changed in a later
  // epoch, and the keys that lost theirs; 0 takes all. Invalid: a cut of one of the tables is in force.
  static Status begin(std::vector<std::shared_ptr<Table>> tables, std::vector<uint16_t> after, std::unique_ptr<Cut>* cut) noexcept;
  // Ends the cut: what was not written is lost to it.
  ~Cut();
  Cut(const Cut&) = delete;
  Cut& operator=(const Cut&) = delete;

  // The last epoch that is in the cut, of each table.
  const std::vector<uint16_t>& until() const { return until_; }
  // Epochs after which rows are in it: what was asked for, or 0 where it is not known any more which keys lost their rows.
  const std::vector<uint16_t>& after() const { return after_; }

  // Writes the rows of shards [shard_low, shard_high) of table i to files `prefixes[i]`-00000.safetensors and so on, its removed keys
  // to -removed.safetensors and its waiting ids to -waiting.safetensors if there are any, each on the disk when this returns. Call it once. On failure the files that were finished stay; whoever asked removes the directory.
  Status write(const std::vector<std::string>& prefixes, uint32_t shard_low, uint32_t shard_high, size_t file_bytes,
               std::vector<std::vector<SavedFile>>* saved) noexcept;

  // Lets a write() under way in another thread fail soon.
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  friend class CutWriter;
  Cut(std::vector<std::shared_ptr<Table>> tables, std::vector<uint16_t> after, std::vector<uint16_t> until)
      : tables_(std::move(tables)), after_(std::move(after)), until_(std::move(until)) {}

  const std::vector<std::shared_ptr<Table>> tables_;
  const std::vector<uint16_t> after_, until_;
  std::atomic<bool> cancelled_{false};
};

// Fills a fresh table from files: the newest first, since a row that is there already is newer. If a call fails, throw the table away.
class Load {
 public:
  // Takes rows whose shard is in keep[kNumShards]. Without `keep_state` files of another row optimizer fit too, and row state
  // begins anew.
  Load(std::shared_ptr<Table> table, const bool* keep, bool keep_state);
  ~Load();
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // What the manifest says of a file.
  struct Claim {
    std::map<std::string, uint32_t> checksums;
    uint32_t shard_low = 0, shard_high = kNumShards;  // its keys lie in these
    int64_t count = -1;                               // of its rows or ids; -1: not said
  };

  // About so many rows will come: saves the table from growing step by step.
  void expect(uint64_t num_rows) noexcept;

  // The files that follow are of one snapshot, in which no key is twice; those before were of newer ones.
  void next_snapshot() noexcept;

  // Checks a file of rows whole, then makes those that are neither there nor removed.
  Status rows(const std::string& path, const Claim& claim, uint64_t* num_made) noexcept;

  // From now on takes no row of shards [low, high): older files are behind a complete part of them.
  void drop_shards(uint32_t low, uint32_t high) { std::fill(keep_ + low, keep_ + high, false); }

  // Takes a file of removed keys: older files' rows of these keys are no more.
  Status removed(const std::string& path, const Claim& claim) noexcept;

  // Takes a file of waiting ids, the newest snapshot's: an older one has none to add.
  Status waiting(const std::string& path, const Claim& claim) noexcept;

 private:
  struct Read;
  Status read(const std::string& path, const Claim& claim, Read* read);
  bool make_buffer(size_t bytes) noexcept;
  Status make(const Read& read, uint64_t num_rows, uint64_t* num_made);
  Status check_keys(const char* keys, uint64_t count, const Claim& claim) const;
  Status add_waiting(uint64_t hash, uint32_t count, uint32_t generation);

  const std::shared_ptr<Table> table_;
  bool keep_[kNumShards];
  const bool keep_state_;
  bool checks_repeats_ = false;    // next_snapshot() was called
  std::vector<uint64_t> removed_;  // sorted
  char* buffer_ = nullptr;         // the file in hand, in huge pages
  size_t buffer_bytes_ = 0;
};

}  // namespace fleet
