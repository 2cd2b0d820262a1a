#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "crc32.h"
#include "file.h"
#include "id_file.h"
#include "pages.h"
#include "row_file.h"
#include "safetensors.h"
#include "snapshot.h"

namespace fleet {

namespace {

std::string hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

Status parse_header(const char* file, uint64_t size, SafetensorsHeader* header, uint64_t* data_begin) {
  if (size < 8) return Status::damaged("the file has " + std::to_string(size) + " bytes: too short for a header");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[i]);
  if (length > SafetensorsHeader::kMaxBytes || 8 + length > size) {
    return Status::damaged("its header announces " + std::to_string(length) + " bytes, the file has " + std::to_string(size) +
                           ": not a table's snapshot, or truncated (byte 0)");
  }
  *data_begin = 8 + length;
  return SafetensorsHeader::parse(std::string(file + 8, length), header);
}

Status other_count(const Load::Claim& claim, uint64_t count) {
  return Status::damaged("it holds " + std::to_string(count) + " rows or ids, the manifest says " + std::to_string(claim.count));
}

}  // namespace

struct Load::Read {
  SafetensorsHeader header;
  const char* data = nullptr;
  uint64_t data_bytes = 0;
  const char* tensor(const char* name) const {
    const auto found = header.tensors.find(name);
    return found == header.tensors.end() ? nullptr : data + found->second.begin;
  }
};

Load::Load(std::shared_ptr<Table> table, const bool* keep, bool keep_state) : table_(std::move(table)), keep_state_(keep_state) {
  std::copy_n(keep, kNumShards, keep_);
}

Load::~Load() { return_pages(buffer_, buffer_bytes_); }

bool Load::make_buffer(size_t bytes) noexcept {
  if (bytes <= buffer_bytes_) return true;
  return_pages(buffer_, buffer_bytes_);
  buffer_ = take_pages(bytes);
  buffer_bytes_ = buffer_ != nullptr ? bytes : 0;
  if (bytes >= kHugePageBytes && buffer_ != nullptr) want_huge_pages(buffer_, bytes);
  return buffer_ != nullptr;
}

void Load::expect(uint64_t num_rows) noexcept {
  const uint64_t part = num_rows / table_->num_stripes();
  for (uint32_t s = 0; s < table_->num_stripes(); ++s) {
    const std::lock_guard<std::mutex> lock(table_->stripe(s).mutex);
    table_->stripe(s).index.reserve(part + part / 64);
  }
}

void Load::next_snapshot() noexcept {
  checks_repeats_ = true;
  for (uint32_t s = 0; s < table_->num_stripes(); ++s) {
    const std::lock_guard<std::mutex> lock(table_->stripe(s).mutex);
    ++table_->stripe(s).epoch;  // tells this snapshot's rows from those of newer ones
  }
}

Status Load::read(const std::string& path, const Claim& claim, Read* read) {
  const std::map<std::string, uint32_t>& checksums = claim.checksums;
  File file;
  Status status = file.open(path);
  if (!status.ok()) return status;
  if (!make_buffer(file.size())) return Status::no_memory("the system has no memory for a file of rows");
  status = file.read_at(0, buffer_, file.size());
  if (!status.ok()) return status;
  uint64_t begin = 0;
  status = parse_header(buffer_, file.size(), &read->header, &begin);
  if (!status.ok()) return status;
  read->data = buffer_ + begin;
  read->data_bytes = file.size() - begin;
  for (const auto& [name, tensor] : read->header.tensors) {  // checksums first need tensors that lie in the file
    if (tensor.begin > tensor.end || tensor.end > read->data_bytes) {
      return Status::damaged("its tensor " + name + " lies at bytes " + std::to_string(tensor.begin) + " to " +
                             std::to_string(tensor.end) + " of " + std::to_string(read->data_bytes) + ": truncated, or its header is wrong");
    }
  }
  if (checksums.size() != read->header.tensors.size()) return Status::damaged("checksums are not those of its tensors");
  for (const auto& [name, tensor] : read->header.tensors) {
    const auto expected = checksums.find(name);
    if (expected == checksums.end()) return Status::damaged("there is no checksum for its tensor " + name);
    const uint32_t crc = crc32(0, read->data + tensor.begin, tensor.end - tensor.begin);
    if (crc != expected->second) {
      return Status::damaged("corrupt: the CRC-32 of its tensor " + name + " is " + hex(crc) + ", it was " + hex(expected->second) +
                             " when written (bytes " + std::to_string(begin + tensor.begin) + " to " +
                             std::to_string(begin + tensor.end) + ")");
    }
  }
  return {};
}

Status Load::check_keys(const char* keys, uint64_t count, const Claim& claim) const {
  if (claim.count >= 0 && static_cast<uint64_t>(claim.count) != count) return other_count(claim, count);
  if (claim.shard_low == 0 && claim.shard_high == kNumShards) return {};
  uint64_t foreign = 0;
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t key = 0;
    std::memcpy(&key, keys + i * 8, sizeof key);
    const uint32_t shard = shard_of_hash(hash_of(key, table_->schema().salt));
    foreign += shard < claim.shard_low || shard >= claim.shard_high;
  }
  if (foreign == 0) return {};
  return Status::damaged(std::to_string(foreign) + " of its keys lie in shards that its server does not hold: " +
                         std::to_string(claim.shard_low) + " to " + std::to_string(claim.shard_high));
}

Status Load::rows(const std::string& path, const Claim& claim, uint64_t* num_made) noexcept try {
  Read read;
  uint64_t num_rows = 0;
  Status status = this->read(path, claim, &read);
  if (status.ok()) status = check_header(read.header, table_->schema(), !keep_state_, read.data_bytes, &num_rows);
  if (status.ok()) status = check_keys(read.tensor("keys"), num_rows, claim);
  if (status.ok()) status = make(read, num_rows, num_made);
  return status;
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a file of rows");
}

Status Load::make(const Read& read, uint64_t num_rows, uint64_t* num_made) {
  constexpr size_t kBlock = 8192;  // rows at once: their keys and places stay in the cache
  const Schema& schema = table_->schema();
  const char* from_keys = read.tensor("keys");
  std::vector<Table::Part> parts;
  for (const Column& column : columns_of(schema)) {
    const char* from = read.tensor(column.name);
    if (from == from_keys || (!keep_state_ && std::string(column.name) == "state")) continue;
    const size_t bad = num_nonfinite(column, from, num_rows);
    if (bad > 0) return Status::damaged(std::to_string(bad) + " NaN or infinite values in its tensor " + column.name);
    parts.push_back({from, column.offset, column.bytes});
  }
  std::vector<uint64_t> keys(std::min<uint64_t>(kBlock, num_rows));
  uint64_t num_repeated = 0;
  for (uint64_t at = 0; at < num_rows; at += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, num_rows - at);
    std::memcpy(keys.data(), from_keys + at * 8, count * 8);
    // Runs of rows that are wanted: nearly always all of them.
    for (size_t begin = 0; begin < count;) {
      const auto wanted = [&](uint64_t key) {
        return keep_[shard_of_hash(hash_of(key, schema.salt))] && !std::binary_search(removed_.begin(), removed_.end(), key);
      };
      size_t end = begin;
      while (end < count && wanted(keys[end])) ++end;
      const uint64_t first = at + begin;
      std::vector<Table::Part> here = parts;
      for (Table::Part& part : here) part.from += first * part.bytes;
      const Status status = table_->restore(keys.data() + begin, end - begin, here, num_made, &num_repeated);
      if (!status.ok()) return status;
      begin = end + 1;
    }
  }
  if (checks_repeats_ && num_repeated > 0) {
    return Status::damaged(std::to_string(num_repeated) + " of its keys are twice in the snapshot");
  }
  return {};
}

Status Load::removed(const std::string& path, const Claim& claim) noexcept try {
  Read read;
  uint64_t count = 0;
  Status status = this->read(path, claim, &read);
  if (status.ok()) status = check_removed(read.header, table_->schema().salt, read.data_bytes, &count);
  if (status.ok()) status = check_keys(read.tensor("keys"), count, claim);
  if (!status.ok()) return status;
  std::vector<uint64_t> keys(count);
  if (count > 0) std::memcpy(keys.data(), read.tensor("keys"), count * 8);
  const std::unique_ptr<bool[]> there(new bool[count + 1]);
  status = table_->has(keys.data(), count, there.get());
  if (!status.ok()) return status;
  const size_t before = removed_.size();
  for (size_t i = 0; i < count; ++i) {
    if (!there[i]) removed_.push_back(keys[i]);  // else a newer file brought it back
  }
  std::sort(removed_.begin() + static_cast<std::ptrdiff_t>(before), removed_.end());
  std::inplace_merge(removed_.begin(), removed_.begin() + static_cast<std::ptrdiff_t>(before), removed_.end());
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a list of removed keys");
}

Status Load::waiting(const std::string& path, const Claim& claim) noexcept try {
  Read read;
  uint64_t count = 0;
  Status status = this->read(path, claim, &read);
  if (status.ok()) status = check_waiting(read.header, table_->schema().salt, read.data_bytes, &count);
  if (!status.ok()) return status;
  if (!table_->schema().life.lets_wait()) return Status::damaged("no id waits for a row of this table");
  if (claim.count >= 0 && static_cast<uint64_t>(claim.count) != count) return other_count(claim, count);
  const char* hashes = read.tensor("hashes");
  const char* counts = read.tensor("counts");
  const char* generations = read.tensor("generations");
  for (uint64_t i = 0; i < count && status.ok(); ++i) {
    uint64_t hash = 0;
    uint16_t sightings = 0;
    std::memcpy(&hash, hashes + i * 8, sizeof hash);
    std::memcpy(&sightings, counts + i * 2, sizeof sightings);
    const auto generation = static_cast<uint8_t>(generations[i]);
    const uint32_t shard = shard_of_hash(hash);
    if ((hash & ~Index::kKnownOfHash) != 0 || sightings > Index::kMaxCount || generation > 3 || shard < claim.shard_low ||
        shard >= claim.shard_high) {
      return Status::damaged("its id number " + std::to_string(i) + " makes no sense");
    }
    if (keep_[shard]) status = add_waiting(hash, sightings, generation);
  }
  return status;
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a list of waiting ids");
}

Status Load::add_waiting(uint64_t hash, uint32_t count, uint32_t generation) {
  Stripe& stripe = table_->stripe(stripe_of_hash(hash));  // there are kMaxStripes of them where ids wait
  const std::lock_guard<std::mutex> lock(stripe.mutex);
  if (stripe.index.find_waiting(hash) != nullptr) return Status::damaged("an id waits twice");
  if (!stripe.index.reserve_one(stripe.rows, table_->schema().salt) || !stripe.index.can_wait()) {
    return Status::no_memory("the system has no memory for waiting ids");
  }
  stripe.index.add_waiting(Index::with_count(Index::want_waiting(hash), count, generation));
  return {};
}

}  // namespace fleet
