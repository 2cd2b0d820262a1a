// What a table is: its row layout, its row optimizer and where the values of a new row come from.
//
//   a row: {key u64 | epoch u16 | seen u16 | life[life_bytes] | weights | state}
//
// `epoch`: the snapshot epoch in which the row last changed, set by before_change(); 0 marks a row that is free.
// `seen`: a coarse clock of its last use. `life`: counters that decide how long it lives; most tables have none.
// Whoever needs a place in a row asks Schema (offsets) or Stripe (values): nothing else knows the numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "life.h"
#include "rows.h"

namespace fleet {

enum class Optimizer { kSgd, kAdagrad, kRowwiseAdagrad, kAdam };
enum class Initializer { kUniform, kNormal, kConstant };

// Floats of state beside one row: none, dim (sum of squares), 1 (sum of mean squares), 2 dim (first, second moment).
constexpr size_t state_dim_of(Optimizer optimizer, size_t dim) {
  switch (optimizer) {
    case Optimizer::kSgd: return 0;
    case Optimizer::kAdagrad: return dim;
    case Optimizer::kRowwiseAdagrad: return 1;
    case Optimizer::kAdam: return 2 * dim;
  }
  return 0;
}

struct Schema {
  size_t dim = 0;
  Optimizer optimizer = Optimizer::kSgd;
  // Hyper-parameters; each optimizer reads its own.
  float epsilon = 0;              // Adagrad, row-wise Adagrad, Adam
  float initial_accumulator = 0;  // Adagrad, row-wise Adagrad
  float beta1 = 0;                // Adam
  float beta2 = 0;
  Initializer initializer = Initializer::kConstant;
  float init_a = 0;  // low, mean or value
  float init_b = 0;  // high or standard deviation
  uint64_t seed = 0;
  uint64_t salt = 0;
  Life life;

  size_t state_dim() const { return state_dim_of(optimizer, dim); }

  // Offsets in a row, in bytes; all are multiples of 4 but those of the two 16-bit words.
  static constexpr size_t kEpochOffset = Rows::kEpochOffset;
  static constexpr size_t kSeenOffset = 10;
  static constexpr size_t kLifeOffset = 12;
  size_t weights_offset() const { return kLifeOffset + life.life_bytes(); }
  size_t weights_bytes() const { return 4 * dim; }
  size_t state_offset() const { return weights_offset() + weights_bytes(); }
  size_t state_bytes() const { return 4 * state_dim(); }
  size_t row_bytes() const { return state_offset() + state_bytes(); }
  // What a snapshot holds of a row: key, weights, state.
  size_t saved_bytes() const { return 8 + weights_bytes() + state_bytes(); }

  const char* optimizer_name() const {
    switch (optimizer) {
      case Optimizer::kSgd: return "sgd";
      case Optimizer::kAdagrad: return "adagrad";
      case Optimizer::kRowwiseAdagrad: return "rowwise_adagrad";
      case Optimizer::kAdam: return "adam";
    }
    return "";
  }
  float initial_state() const {
    return optimizer == Optimizer::kAdagrad || optimizer == Optimizer::kRowwiseAdagrad ? initial_accumulator : 0.0f;
  }
};

// What one push brings beside its gradients. Adam's carry the bias corrections of its step.
struct Rate {
  float lr = 0;       // SGD, Adagrad: the rate. Adam: lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float epsilon = 0;  // Adagrad: epsilon. Adam: epsilon * sqrt(1 - beta2^t)
};

}  // namespace fleet
