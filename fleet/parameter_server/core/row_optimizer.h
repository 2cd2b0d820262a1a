// What a row optimizer is, but for its arithmetic: its name, its constants and its state. docs/row_optimizer.md walks through
// adding one; each is a file of row_optimizers/, and row_optimizers/list.inc.h names them all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fleet {

constexpr size_t kMaxConstants = 6;
constexpr double kSmallest = 1e-37;  // lower end of a constant that is added to a divisor: an epsilon of 0 divides 0 by 0
constexpr double kLarge = 1e30;

// A number that a table gives its row optimizer once, in [low, high). A flag is 0 or 1.
struct Constant {
  const char* name = nullptr;  // nullptr behind the last one
  double otherwise = 0;        // its default
  double low = 0;
  double high = kLarge;
  bool flag = false;
};

// What one push brings beside its gradients.
struct Rate {
  float lr = 0;
  float beta1_power = 0;  // beta1^step, if the optimizer uses them
  float beta2_power = 0;
  uint64_t noise = 0;  // what random rounding draws from besides the key
};

// What an optimizer's struct inherits and overrides.
struct ByColumn {
  static constexpr size_t kPerColumn = 0;        // floats of state beside each weight
  static constexpr size_t kPerRow = 0;           // 0 or 1: floats of state beside a whole row
  static constexpr int kInitialState = -1;       // the constant with which all state begins; -1: with 0
  static constexpr bool kUsesPowers = false;     // its first two constants are beta1 and beta2, and it reads their powers
  static constexpr bool kDividesByRate = false;  // a rate of 0 has no meaning
};

// State of a row: kPerColumn blocks of dim floats, then kPerRow floats.
struct RowOptimizer {
  size_t number;  // its place in the list
  const char* name;
  const Constant* constants;  // kMaxConstants
  size_t per_column;
  size_t per_row;
  int initial_state;
  bool uses_powers;
  bool divides_by_rate;

  size_t state_dim(size_t dim) const { return per_column * dim + per_row; }
};

// All of them, in the order of the list.
const RowOptimizer* row_optimizers(size_t* count) noexcept;
// nullptr if there is none of this name.
const RowOptimizer* find_row_optimizer(const char* name) noexcept;

}  // namespace fleet
