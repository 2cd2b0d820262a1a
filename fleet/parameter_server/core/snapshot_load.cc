#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "crc32.h"
#include "file.h"
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

Status parse_header(const std::vector<char>& file, SafetensorsHeader* header, uint64_t* data_begin) {
  if (file.size() < 8) return Status::damaged("the file has " + std::to_string(file.size()) + " bytes: too short for a header");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[static_cast<size_t>(i)]);
  if (length > SafetensorsHeader::kMaxBytes || 8 + length > file.size()) {
    return Status::damaged("its header announces " + std::to_string(length) + " bytes, the file has " + std::to_string(file.size()) +
                           ": not a table's snapshot, or truncated (byte 0)");
  }
  *data_begin = 8 + length;
  return SafetensorsHeader::parse(std::string(file.data() + 8, length), header);
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

Status Load::read(const std::string& path, const std::map<std::string, uint32_t>& checksums, Read* read) {
  File file;
  Status status = file.open(path);
  if (!status.ok()) return status;
  buffer_.resize(file.size());
  status = file.read_at(0, buffer_.data(), buffer_.size());
  if (!status.ok()) return status;
  uint64_t begin = 0;
  status = parse_header(buffer_, &read->header, &begin);
  if (!status.ok()) return status;
  read->data = buffer_.data() + begin;
  read->data_bytes = buffer_.size() - begin;
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

Status Load::rows(const std::string& path, const std::map<std::string, uint32_t>& checksums, uint64_t* num_made) noexcept try {
  Read read;
  uint64_t num_rows = 0;
  Status status = this->read(path, checksums, &read);
  if (status.ok()) status = check_header(read.header, table_->schema(), !keep_state_, read.data_bytes, &num_rows);
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
      const Status status = table_->restore(keys.data() + begin, end - begin, here, num_made);
      if (!status.ok()) return status;
      begin = end + 1;
    }
  }
  return {};
}

Status Load::removed(const std::string& path, const std::map<std::string, uint32_t>& checksums) noexcept try {
  Read read;
  const Status status = this->read(path, checksums, &read);
  if (!status.ok()) return status;
  const auto found = read.header.tensors.find("keys");
  if (read.header.tensors.size() != 1 || found == read.header.tensors.end() || found->second.dtype != "U64" ||
      found->second.shape.size() != 1 || found->second.shape[0] > read.data_bytes / 8 ||
      found->second.shape[0] * 8 != found->second.end - found->second.begin || found->second.shape[0] * 8 != read.data_bytes) {
    return Status::damaged("not a list of removed keys: it needs one tensor, keys U64[n]");
  }
  const size_t count = found->second.shape[0];
  std::vector<uint64_t> keys(count);
  if (count > 0) std::memcpy(keys.data(), read.tensor("keys"), count * 8);
  const std::unique_ptr<bool[]> there(new bool[count + 1]);
  const Status asked = table_->has(keys.data(), count, there.get());
  if (!asked.ok()) return asked;
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

}  // namespace fleet
