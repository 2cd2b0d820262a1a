#include <algorithm>
#include <cstdio>
#include <new>
#include <vector>

#include "crc32.h"
#include "file.h"
#include "kernels.h"
#include "safetensors.h"
#include "snapshot.h"

namespace fleet {

namespace {

constexpr size_t kPieceBytes = size_t{8} << 20;  // read at once

std::string hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class Load {
 public:
  Load(Table& table, const bool* keep, const std::map<std::string, uint32_t>& checksums)
      : table_(table), keep_(keep), checksums_(checksums) {}

  Status run(const std::string& path, uint64_t* num_rows) {
    Status status = file_.open(path);
    if (status.ok()) status = read_header();
    if (status.ok()) status = check_metadata();
    if (status.ok()) status = check_tensors();
    if (status.ok()) status = check_bytes();
    if (status.ok()) status = insert(num_rows);
    return status;
  }

 private:
  Status read_header() {
    unsigned char prefix[8];
    if (file_.size() < 8) return Status::damaged("the file has " + std::to_string(file_.size()) + " bytes: too short for a header");
    Status status = file_.read_at(0, prefix, 8);
    if (!status.ok()) return status;
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
    if (length > SafetensorsHeader::kMaxBytes || 8 + length > file_.size()) {
      return Status::damaged("its header announces " + std::to_string(length) + " bytes, the file has " +
                             std::to_string(file_.size()) + ": not a table's snapshot, or truncated (byte 0)");
    }
    std::string json(length, '\0');
    status = file_.read_at(8, json.data(), length);
    if (!status.ok()) return status;
    data_begin_ = 8 + length;
    return SafetensorsHeader::parse(json, &header_);
  }

  Status check_metadata() const {
    const Schema& schema = table_.schema();
    const std::pair<const char*, std::string> wanted[] = {{"format", "fleet.table.1"},
                                                          {"optimizer", schema.optimizer_name()},
                                                          {"dim", std::to_string(schema.dim)},
                                                          {"state_dim", std::to_string(schema.state_dim())},
                                                          {"salt", std::to_string(schema.salt)}};
    for (const auto& [name, value] : wanted) {
      const auto found = header_.metadata.find(name);
      if (found == header_.metadata.end()) {
        return Status::damaged(std::string("its header has no metadata \"") + name + "\": not a table's snapshot");
      }
      if (found->second != value) {
        return Status::damaged(std::string("it has ") + name + " " + found->second + ", the table has " + name + " " + value);
      }
    }
    return {};
  }

  Status check_tensors() {
    const Schema& schema = table_.schema();
    const auto keys = header_.tensors.find("keys");
    if (keys == header_.tensors.end() || keys->second.shape.size() != 1) {
      return Status::damaged("its header has no tensor keys of one dimension");
    }
    num_rows_ = keys->second.shape[0];
    std::map<std::string, std::pair<const char*, std::vector<uint64_t>>> wanted;
    wanted["keys"] = {"U64", {num_rows_}};
    wanted["weights"] = {tensor_dtype_of(schema.weights), {num_rows_, schema.dim}};
    if (schema.state_dim() > 0) wanted["state"] = {tensor_dtype_of(schema.state), {num_rows_, schema.state_dim()}};
    if (header_.tensors.size() != wanted.size()) return Status::damaged("its header has tensors that no table has");
    const uint64_t data_bytes = file_.size() - data_begin_;
    if (num_rows_ > data_bytes / (schema.saved_bytes())) {
      return Status::damaged("truncated: its header announces " + std::to_string(num_rows_) + " rows of " +
                             std::to_string(schema.saved_bytes()) + " bytes, the file has " + std::to_string(file_.size()) + " bytes");
    }
    if (num_rows_ * schema.saved_bytes() != data_bytes) {
      return Status::damaged("the file has " + std::to_string(file_.size()) + " bytes, its header announces " +
                             std::to_string(data_begin_ + num_rows_ * schema.saved_bytes()));
    }
    for (const auto& [name, want] : wanted) {
      const auto found = header_.tensors.find(name);
      if (found == header_.tensors.end()) return Status::damaged("its header has no tensor " + name);
      const Tensor& tensor = found->second;
      if (tensor.dtype != want.first || tensor.shape != want.second) {
        return Status::damaged("its tensor " + name + " is " + tensor.dtype + shape_text(tensor.shape) + ", the table needs " +
                               want.first + shape_text(want.second));
      }
      const uint64_t row = name == "keys" ? 8 : name == "state" ? schema.state_bytes() : schema.weights_bytes();
      if (tensor.begin > data_bytes || tensor.end > data_bytes || tensor.end - tensor.begin != num_rows_ * row) {
        return Status::damaged("its tensor " + name + " lies at bytes " + std::to_string(tensor.begin) + " to " +
                               std::to_string(tensor.end) + " of " + std::to_string(data_bytes));
      }
    }
    return {};
  }

  // First pass: checksums of every tensor, order of the shards.
  Status check_bytes() {
    if (checksums_.size() != header_.tensors.size()) return Status::damaged("checksums are not those of its tensors");
    std::vector<char> piece(kPieceBytes);
    for (const auto& [name, tensor] : header_.tensors) {
      const auto expected = checksums_.find(name);
      if (expected == checksums_.end()) return Status::damaged("there is no checksum for its tensor " + name);
      uint32_t crc = 0;
      for (uint64_t at = tensor.begin; at < tensor.end;) {
        const size_t bytes = std::min<uint64_t>(kPieceBytes, tensor.end - at);
        const Status status = file_.read_at(data_begin_ + at, piece.data(), bytes);
        if (!status.ok()) return status;
        crc = crc32(crc, piece.data(), bytes);
        at += bytes;
      }
      if (crc != expected->second) {
        return Status::damaged("corrupt: the CRC-32 of its tensor " + name + " is " + hex(crc) + ", it was " + hex(expected->second) +
                               " when written (bytes " + std::to_string(data_begin_ + tensor.begin) + " to " +
                               std::to_string(data_begin_ + tensor.end) + ")");
      }
    }
    return check_order(piece);
  }

  Status check_order(std::vector<char>& piece) {
    const uint64_t begin = data_begin_ + header_.tensors["keys"].begin;
    uint32_t last = 0;
    for (uint64_t at = 0; at < num_rows_;) {
      const size_t count = std::min<uint64_t>(kPieceBytes / 8, num_rows_ - at);
      const Status status = file_.read_at(begin + at * 8, piece.data(), count * 8);
      if (!status.ok()) return status;
      for (size_t i = 0; i < count; ++i) {
        uint64_t key;
        std::memcpy(&key, &piece[i * 8], 8);
        const uint32_t shard = shard_of_hash(hash_of(key, table_.schema().salt));
        if (shard < last) return Status::damaged("its keys are not sorted by shard (row " + std::to_string(at + i) + ")");
        last = shard;
      }
      at += count;
    }
    return {};
  }

  // Second pass.
  Status insert(uint64_t* inserted) {
    const Schema& schema = table_.schema();
    const size_t dim = schema.dim;
    const size_t state_dim = schema.state_dim();
    const size_t block = std::max<size_t>(1, kPieceBytes / schema.saved_bytes());
    std::vector<uint64_t> keys(block);
    std::vector<float> weights(block * dim);
    std::vector<float> state(block * state_dim);
    std::vector<char> stored(block * std::max(schema.weights_bytes(), schema.state_bytes()));
    const auto read = [&](const char* name, uint64_t row, size_t count, size_t row_bytes, void* to) {
      return file_.read_at(data_begin_ + header_.tensors[name].begin + row * row_bytes, to, count * row_bytes);
    };
    for (uint64_t at = 0; at < num_rows_;) {
      const size_t count = std::min<uint64_t>(block, num_rows_ - at);
      Status status = read("keys", at, count, 8, keys.data());
      if (status.ok()) status = read("weights", at, count, schema.weights_bytes(), stored.data());
      kernels().load_numbers(schema.weights, stored.data(), status.ok() ? count * dim : 0, weights.data());
      if (status.ok() && state_dim > 0) status = read("state", at, count, schema.state_bytes(), stored.data());
      kernels().load_numbers(schema.state, stored.data(), status.ok() ? count * state_dim : 0, state.data());
      if (!status.ok()) return status;
      size_t kept = 0;
      for (size_t i = 0; i < count; ++i) {
        if (!keep_[shard_of_hash(hash_of(keys[i], schema.salt))]) continue;
        if (kept != i) {
          keys[kept] = keys[i];
          std::copy_n(&weights[i * dim], dim, &weights[kept * dim]);
          if (state_dim > 0) std::copy_n(&state[i * state_dim], state_dim, &state[kept * state_dim]);
        }
        ++kept;
      }
      status = table_.assign(keys.data(), kept, weights.data(), state_dim > 0 ? state.data() : nullptr);
      if (!status.ok()) return status;
      *inserted += kept;
      at += count;
    }
    return {};
  }

  Table& table_;
  const bool* keep_;
  const std::map<std::string, uint32_t>& checksums_;
  File file_;
  SafetensorsHeader header_;
  uint64_t data_begin_ = 0;
  uint64_t num_rows_ = 0;
};

}  // namespace

Status load_table(Table& table, const std::string& path, const bool* keep, const std::map<std::string, uint32_t>& checksums,
                  uint64_t* num_rows) noexcept try {
  *num_rows = 0;
  return Load(table, keep, checksums).run(path, num_rows);
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for the buffers of a snapshot");
}

}  // namespace fleet
