#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "crc32.h"
#include "file.h"
#include "safetensors.h"
#include "snapshot.h"

namespace fleet {

namespace {

constexpr size_t kBufferBytes = size_t{64} << 20;  // of all shards together
constexpr size_t kRowsAtOnce = 512;                // copied under one hold of a stripe's lock: tens of microseconds

// The three tensors, in their order in the file.
struct Column {
  const char* name;
  const char* dtype;
  size_t row_offset;  // in the table's row
  size_t bytes;       // of one row
};

std::vector<Column> columns_of(const Schema& schema) {
  std::vector<Column> columns = {{"keys", "U64", 0, 8}, {"weights", tensor_dtype_of(schema.weights), schema.weights_offset(), schema.weights_bytes()}};
  if (schema.state_dim() > 0) columns.push_back({"state", tensor_dtype_of(schema.state), schema.state_offset(), schema.state_bytes()});
  return columns;
}

// What one shard still has to write: rows collect in `buffers` (one per column) and go to the file when they are full.
struct ShardWriter {
  uint64_t first = 0;  // its first row in the file
  uint64_t count = 0;  // its rows
  uint64_t written = 0;
  size_t buffered = 0;
  std::vector<std::vector<char>> buffers;
  std::vector<uint32_t> crcs;
};

class Save {
 public:
  Save(Table& table, uint32_t low, uint32_t high) : table_(table), low_(low), high_(high), columns_(columns_of(table.schema())) {}

  Status run(const std::string& path, Saved* saved) {
    count_rows();
    uint64_t sum = 0;
    for (ShardWriter& shard : shards_) {
      shard.first = sum;
      sum += shard.count;
    }
    saved->rows = sum;
    const std::string header = header_text(sum);
    saved->bytes = begins_.back();
    File file;
    Status status = file.create(path, saved->bytes);
    if (status.ok()) status = file.write_at(0, header.data(), header.size());
    if (status.ok()) status = write_rows(file);
    if (status.ok()) status = file.finish();
    if (!status.ok()) return status;
    for (size_t c = 0; c < columns_.size(); ++c) {
      uint32_t crc = 0;
      for (const ShardWriter& shard : shards_) {
        if (shard.count > 0) crc = crc32_join(crc, shard.crcs[c], shard.count * columns_[c].bytes);
      }
      saved->checksums[columns_[c].name] = crc;
    }
    return {};
  }

 private:
  // Rows are appended and keys never change: the rows in the first limits_[stripe] places are what this snapshot holds.
  void count_rows() {
    shards_.resize(kNumShards);
    for (uint32_t s = 0; s < table_.num_stripes(); ++s) {
      Stripe& stripe = table_.stripe(s);
      {
        const std::lock_guard<std::mutex> lock(stripe.mutex);
        limits_.push_back(stripe.rows.num_places());
      }
      for (uint64_t at = 0; at < limits_[s];) {
        const std::lock_guard<std::mutex> lock(stripe.mutex);
        for (const uint64_t end = std::min(limits_[s], at + 16 * kRowsAtOnce); at < end; ++at) {
          const uint64_t ref = stripe.rows.ref_of(at);
          if (!stripe.rows.is_free(ref)) ++shards_[shard_of(stripe.rows.at(ref))].count;
        }
      }
    }
    for (uint32_t shard = 0; shard < kNumShards; ++shard) {
      if (shard < low_ || shard >= high_) shards_[shard].count = 0;
    }
  }

  uint32_t shard_of(const char* row) const { return shard_of_hash(hash_of(Stripe::key_of(row), table_.schema().salt)); }

  // Also sets begins_: where each column begins in the file, and where the file ends.
  std::string header_text(uint64_t num_rows) {
    const Schema& schema = table_.schema();
    SafetensorsHeader header;
    header.metadata = {{"format", "fleet.table.1"},
                       {"optimizer", schema.optimizer_name()},
                       {"dim", std::to_string(schema.dim)},
                       {"state_dim", std::to_string(schema.state_dim())},
                       {"salt", std::to_string(schema.salt)},
                       {"shard_low", std::to_string(low_)},
                       {"shard_high", std::to_string(high_)}};
    uint64_t at = 0;
    for (const Column& column : columns_) {
      std::vector<uint64_t> shape = {num_rows};
      if (column.row_offset > 0) shape.push_back(column.name == std::string("state") ? schema.state_dim() : schema.dim);
      header.tensors[column.name] = {column.dtype, shape, at, at + num_rows * column.bytes};
      begins_.push_back(at);
      at += num_rows * column.bytes;
    }
    begins_.push_back(at);
    const std::string text = header.text();
    for (uint64_t& begin : begins_) begin += text.size();
    return text;
  }

  Status write_rows(File& file) {
    const size_t row_bytes = table_.schema().row_bytes();
    const size_t capacity = std::max<size_t>(1, kBufferBytes / kNumShards / row_bytes);
    std::vector<char> chunk(kRowsAtOnce * row_bytes);
    for (uint32_t s = 0; s < table_.num_stripes(); ++s) {
      Stripe& stripe = table_.stripe(s);
      for (uint64_t at = 0; at < limits_[s];) {
        const size_t count = std::min<uint64_t>(kRowsAtOnce, limits_[s] - at);
        {
          const std::lock_guard<std::mutex> lock(stripe.mutex);
          for (size_t i = 0; i < count; ++i) {
            std::memcpy(&chunk[i * row_bytes], stripe.rows.at(stripe.rows.ref_of(at + i)), row_bytes);
          }
        }
        at += count;
        for (size_t i = 0; i < count; ++i) {
          if (Stripe::epoch_of(&chunk[i * row_bytes]) == 0) continue;  // a free place
          const Status status = add(file, &chunk[i * row_bytes], capacity);
          if (!status.ok()) return status;
        }
      }
    }
    for (ShardWriter& shard : shards_) {
      const Status status = flush(file, shard);
      if (!status.ok()) return status;
    }
    return {};
  }

  Status add(File& file, const char* row, size_t capacity) {
    ShardWriter& shard = shards_[shard_of(row)];
    if (shard.count == 0) return {};
    if (shard.buffers.empty()) {
      shard.crcs.assign(columns_.size(), 0);
      for (const Column& column : columns_) shard.buffers.emplace_back(std::min<uint64_t>(capacity, shard.count) * column.bytes);
    }
    for (size_t c = 0; c < columns_.size(); ++c) {
      const size_t bytes = columns_[c].bytes;
      std::memcpy(&shard.buffers[c][shard.buffered * bytes], row + columns_[c].row_offset, bytes);
    }
    ++shard.buffered;
    return shard.buffered * 8 == shard.buffers[0].size() ? flush(file, shard) : Status();
  }

  Status flush(File& file, ShardWriter& shard) {
    for (size_t c = 0; c < columns_.size() && shard.buffered > 0; ++c) {
      const size_t bytes = shard.buffered * columns_[c].bytes;
      shard.crcs[c] = crc32(shard.crcs[c], shard.buffers[c].data(), bytes);
      const uint64_t to = begins_[c] + (shard.first + shard.written) * columns_[c].bytes;
      const Status status = file.write_at(to, shard.buffers[c].data(), bytes);
      if (!status.ok()) return status;
    }
    shard.written += shard.buffered;
    shard.buffered = 0;
    return {};
  }

  Table& table_;
  const uint32_t low_;
  const uint32_t high_;
  const std::vector<Column> columns_;
  std::vector<uint64_t> limits_;
  std::vector<uint64_t> begins_;
  std::vector<ShardWriter> shards_;
};

}  // namespace

Status save_table(Table& table, const std::string& path, uint32_t shard_low, uint32_t shard_high, Saved* saved) noexcept try {
  return Save(table, shard_low, shard_high).run(path, saved);
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for the buffers of a snapshot");
}

}  // namespace fleet
