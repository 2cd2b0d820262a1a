// How rows lie in a safetensors file: which part of a row is which tensor, and what the header says of the table.
//
//   keys    U64[n]
//   weights F32[n, dim]
//   state   F32[n, state_dim]  absent if state_dim is 0
//   life    F32[n, k], seen U16[n]  only of tables whose rows have a score, or may be evicted
//   metadata: format, optimizer, dim, state_dim, salt
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "safetensors.h"
#include "schema.h"
#include "status.h"

namespace fleet {

struct Column {
  const char* name;
  const char* dtype;
  size_t offset;  // in a row
  size_t bytes;   // of one row
  size_t floats;  // of one row; 0: no dimension beside n
};

std::vector<Column> columns_of(const Schema& schema);

// How many values of rows of a column, of floats at any address, are NaN or infinite.
size_t num_nonfinite(const Column& column, const char* from, size_t num_rows);

// The header of `num_rows` rows, column behind column.
SafetensorsHeader header_of(const Schema& schema, uint64_t num_rows);

// Checks that a header describes rows of this table and lies within `data_bytes`; with `any_optimizer` the row optimizer and its
// state may be others'. Sets `num_rows`.
Status check_header(const SafetensorsHeader& header, const Schema& schema, bool any_optimizer, uint64_t data_bytes,
                    uint64_t* num_rows);

}  // namespace fleet
