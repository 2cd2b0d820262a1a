// How a weight or a state float is stored. Arithmetic is in float32 always.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fleet {

enum class Number : uint32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };  // the numbers of docs/wire.md

constexpr size_t bytes_of(Number number) { return number == Number::kFloat32 ? 4 : 2; }
constexpr const char* name_of(Number number) {
  return number == Number::kFloat32 ? "float32" : number == Number::kBfloat16 ? "bfloat16" : "float16";
}
// As safetensors names it.
constexpr const char* tensor_dtype_of(Number number) {
  return number == Number::kFloat32 ? "F32" : number == Number::kBfloat16 ? "BF16" : "F16";
}

}  // namespace fleet
