#include "id_file.h"

#include <cstring>

#include "crc32.h"
#include "file.h"

namespace fleet {

namespace {

struct IdColumn {
  const char* name;
  const char* dtype;
  size_t bytes;
};
const std::vector<IdColumn> kOfRemoved = {{"keys", "U64", 8}};
const std::vector<IdColumn> kOfWaiting = {{"hashes", "U64", 8}, {"counts", "U16", 2}, {"generations", "U8", 1}};

Status write(const char* format, uint64_t salt, const std::vector<IdColumn>& columns, const std::vector<std::vector<char>>& data,
             uint64_t count, const std::string& path, SavedFile* saved) {
  SafetensorsHeader header;
  header.metadata = {{"format", format}, {"salt", std::to_string(salt)}};
  uint64_t at = 0;
  saved->path = path;
  saved->rows = count;
  for (size_t c = 0; c < columns.size(); ++c) {
    header.tensors[columns[c].name] = {columns[c].dtype, {count}, at, at + data[c].size()};
    at += data[c].size();
    saved->checksums[columns[c].name] = crc32(0, data[c].data(), data[c].size());
  }
  const std::string text = header.text();
  saved->bytes = text.size() + at;
  File file;
  Status status = file.create(path, saved->bytes);
  if (status.ok()) status = file.write_at(0, text.data(), text.size());
  at = text.size();
  for (const std::vector<char>& column : data) {
    if (status.ok()) status = file.write_at(at, column.data(), column.size());
    at += column.size();
  }
  if (status.ok()) status = file.finish();
  if (!status.ok()) status.path = path;
  return status;
}

Status check(const char* format, const char* what, const std::vector<IdColumn>& columns, const SafetensorsHeader& header, uint64_t salt,
             uint64_t data_bytes, uint64_t* count) {
  const auto said = header.metadata.find("format");
  if (said == header.metadata.end() || said->second != format) return Status::damaged(std::string("not a list of ") + what);
  const auto of_table = header.metadata.find("salt");
  if (of_table == header.metadata.end() || of_table->second != std::to_string(salt)) {
    return Status::damaged(std::string("a list of ") + what + " of another table");
  }
  uint64_t width = 0;
  for (const IdColumn& column : columns) width += column.bytes;
  *count = data_bytes / width;
  bool fits = header.tensors.size() == columns.size() && *count * width == data_bytes;
  for (const IdColumn& column : columns) {
    const auto found = header.tensors.find(column.name);
    fits = fits && found != header.tensors.end() && found->second.dtype == column.dtype &&
           found->second.shape == std::vector<uint64_t>{*count} && found->second.begin <= found->second.end &&
           found->second.end <= data_bytes && found->second.end - found->second.begin == *count * column.bytes;
  }
  if (!fits) return Status::damaged(std::string("its tensors are not those of a list of ") + what + " of this length");
  return {};
}

}  // namespace

Status write_removed(const std::vector<uint64_t>& keys, uint64_t salt, const std::string& path, SavedFile* saved) {
  std::vector<std::vector<char>> data(1);
  data[0].resize(keys.size() * 8);
  std::memcpy(data[0].data(), keys.data(), data[0].size());
  return write(kRemovedFormat, salt, kOfRemoved, data, keys.size(), path, saved);
}

Status write_waiting(const std::vector<WaitingId>& ids, uint64_t salt, const std::string& path, SavedFile* saved) {
  std::vector<std::vector<char>> data(3);
  for (size_t c = 0; c < 3; ++c) data[c].resize(ids.size() * kOfWaiting[c].bytes);
  for (size_t i = 0; i < ids.size(); ++i) {
    std::memcpy(&data[0][i * 8], &ids[i].hash, 8);
    std::memcpy(&data[1][i * 2], &ids[i].count, 2);
    std::memcpy(&data[2][i], &ids[i].generation, 1);
  }
  return write(kWaitingFormat, salt, kOfWaiting, data, ids.size(), path, saved);
}

Status check_removed(const SafetensorsHeader& header, uint64_t salt, uint64_t data_bytes, uint64_t* num_keys) {
  return check(kRemovedFormat, "removed keys", kOfRemoved, header, salt, data_bytes, num_keys);
}

Status check_waiting(const SafetensorsHeader& header, uint64_t salt, uint64_t data_bytes, uint64_t* num_ids) {
  return check(kWaitingFormat, "waiting ids", kOfWaiting, header, salt, data_bytes, num_ids);
}

}  // namespace fleet
