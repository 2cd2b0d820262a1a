// The header of a safetensors file: 8 bytes of length, then JSON that names the tensors behind it.
// Source: the format's specification, https://github.com/huggingface/safetensors#format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "status.h"

namespace fleet {

struct Tensor {
  std::string dtype;            // "U64" or "F32"
  std::vector<uint64_t> shape;
  uint64_t begin = 0;           // in bytes behind the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;  // values without control characters

  // The first bytes of the file, length included; padded, so that the data begins at a multiple of 64.
  std::string text() const;

  // Reads the JSON part. Damaged: a message with the byte where it stops making sense.
  static Status parse(const std::string& json, SafetensorsHeader* header) noexcept;

  static constexpr uint64_t kMaxBytes = 1 << 20;  // of JSON; ours are below 1 KB
};

}  // namespace fleet
