// What a table is: its row layout, its row optimizer and where the values of a new row come from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows.h"

namespace fleet {

enum class Optimizer { kSgd, kAdagrad, kRowwiseAdagrad, kAdam };
enum class Initializer { kUniform, kNormal, kConstant };

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

  // Floats of state beside one row: none, dim (sum of squares), 1 (sum of mean squares), 2 dim (first, second moment).
  size_t state_dim() const {
    switch (optimizer) {
      case Optimizer::kSgd: return 0;
      case Optimizer::kAdagrad: return dim;
      case Optimizer::kRowwiseAdagrad: return 1;
      case Optimizer::kAdam: return 2 * dim;
    }
    return 0;
  }
  size_t row_bytes() const { return 8 + 4 * (dim + state_dim()); }
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
