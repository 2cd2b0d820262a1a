#include "row_file.h"

#include <cstring>

#include "kernels.h"

namespace fleet {

namespace {

constexpr const char* kFormat = "fleet.table.2";

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::vector<uint64_t> shape_of(const Column& column, uint64_t num_rows) {
  if (column.floats == 0) return {num_rows};
  return {num_rows, column.floats};
}

Status lies(const std::string& name, const Tensor& tensor, uint64_t data_bytes) {
  return Status::damaged("its tensor " + name + " lies at bytes " + std::to_string(tensor.begin) + " to " +
                         std::to_string(tensor.end) + " of " + std::to_string(data_bytes));
}

Status check_metadata(const SafetensorsHeader& header, const Schema& schema, bool any_optimizer) {
  for (const auto& [name, value] : header_of(schema, 0).metadata) {
    const auto found = header.metadata.find(name);
    if (found == header.metadata.end()) {
      return Status::damaged("its header has no metadata \"" + name + "\": not a table's snapshot");
    }
    if (any_optimizer && (name == "optimizer" || name == "state_dim")) continue;
    if (found->second != value) {
      return Status::damaged("it has " + name + " " + found->second + ", the table has " + name + " " + value);
    }
  }
  return {};
}

}  // namespace

std::vector<Column> columns_of(const Schema& schema) {
  std::vector<Column> columns = {{"keys", "U64", 0, 8, 0},
                                 {"weights", tensor_dtype_of(schema.weights), schema.weights_offset(), schema.weights_bytes(), schema.dim}};
  if (schema.state_dim() > 0) {
    columns.push_back({"state", tensor_dtype_of(schema.state), schema.state_offset(), schema.state_bytes(), schema.state_dim()});
  }
  const size_t life_bytes = schema.life.life_bytes();
  if (life_bytes > 0) columns.push_back({"life", "F32", Schema::kLifeOffset, life_bytes, life_bytes / 4});
  if (schema.life.ages()) columns.push_back({"seen", "U16", Schema::kSeenOffset, 2, 0});  // last: the others stay aligned
  return columns;
}

size_t num_nonfinite(const Column& column, const char* from, size_t num_rows) {
  constexpr size_t kBlock = 4096;  // floats, aligned, in the cache
  float block[kBlock];
  const size_t count = num_rows * column.floats;
  const std::string dtype = column.dtype;
  const Number number = dtype == "BF16" ? Number::kBfloat16 : dtype == "F16" ? Number::kFloat16 : Number::kFloat32;
  if (number == Number::kFloat32 && reinterpret_cast<uintptr_t>(from) % alignof(float) == 0) {
    return kernels().count_nonfinite(reinterpret_cast<const float*>(from), count);
  }
  size_t bad = 0;
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t here = count - at < kBlock ? count - at : kBlock;
    char bytes[kBlock * sizeof(float)];
    std::memcpy(bytes, from + at * bytes_of(number), here * bytes_of(number));
    kernels().load_numbers(number, bytes, here, block);
    bad += kernels().count_nonfinite(block, here);
  }
  return bad;
}

SafetensorsHeader header_of(const Schema& schema, uint64_t num_rows) {
  SafetensorsHeader header;
  header.metadata = {{"format", kFormat},
                     {"optimizer", schema.optimizer_name()},
                     {"dim", std::to_string(schema.dim)},
                     {"state_dim", std::to_string(schema.state_dim())},
                     {"salt", std::to_string(schema.salt)}};
  uint64_t at = 0;
  for (const Column& column : columns_of(schema)) {
    header.tensors[column.name] = {column.dtype, shape_of(column, num_rows), at, at + num_rows * column.bytes};
    at += num_rows * column.bytes;
  }
  return header;
}

Status check_header(const SafetensorsHeader& header, const Schema& schema, bool any_optimizer, uint64_t data_bytes,
                    uint64_t* num_rows) {
  const Status status = check_metadata(header, schema, any_optimizer);
  if (!status.ok()) return status;
  const auto keys = header.tensors.find("keys");
  if (keys == header.tensors.end() || keys->second.shape.size() != 1) {
    return Status::damaged("its header has no tensor keys of one dimension");
  }
  *num_rows = keys->second.shape[0];
  uint64_t row_bytes = 0;
  std::map<std::string, Tensor> others = header.tensors;
  if (any_optimizer) others.erase("state");
  for (const Column& column : columns_of(schema)) {
    if (any_optimizer && std::string(column.name) == "state") continue;
    const auto found = others.find(column.name);
    if (found == others.end()) return Status::damaged(std::string("its header has no tensor ") + column.name);
    const Tensor tensor = found->second;
    others.erase(found);
    const std::vector<uint64_t> shape = shape_of(column, *num_rows);
    if (tensor.dtype != column.dtype || tensor.shape != shape) {
      return Status::damaged(std::string("its tensor ") + column.name + " is " + tensor.dtype + shape_text(tensor.shape) +
                             ", the table needs " + column.dtype + shape_text(shape));
    }
    row_bytes += column.bytes;
    if (*num_rows > data_bytes / row_bytes) {
      return Status::damaged("truncated: its header announces " + std::to_string(*num_rows) + " rows of at least " +
                             std::to_string(row_bytes) + " bytes, the file has " + std::to_string(data_bytes) + " bytes of rows");
    }
    if (tensor.end - tensor.begin != *num_rows * column.bytes) return lies(column.name, tensor, data_bytes);
  }
  if (!others.empty()) return Status::damaged("its header has tensors that no table has");
  uint64_t sum = 0;
  for (const auto& [name, tensor] : header.tensors) {
    if (tensor.begin > tensor.end || tensor.end > data_bytes) return lies(name, tensor, data_bytes);
    sum += tensor.end - tensor.begin;
  }
  if (sum != data_bytes) {
    return Status::damaged("the file has " + std::to_string(data_bytes) + " bytes of rows, its header announces " +
                           std::to_string(sum));
  }
  return {};
}

}  // namespace fleet
