// What a table is: its row layout, its row optimizer and where the values of a new row come from.
//
//   a row: {key u64 | epoch u16 | seen u16 | life[life_bytes] | weights | state | base}
//
// `epoch`: the snapshot epoch in which the row last changed, set by before_change(); 0 marks a row that is free.
// `seen`: a coarse clock of its last use. `life`: counters that decide how long it lives; most tables have none.
// `base`: what the servers held of the row when a trainer fetched it, as floats; only a trainer's copies have it (copies.h).
// Whoever needs a place in a row asks Schema (offsets) or Stripe (values): nothing else knows the numbers.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "life.h"
#include "number.h"
#include "row_optimizer.h"
#include "rows.h"

namespace fleet {

enum class Initializer { kUniform, kNormal, kConstant };

struct Schema {
  size_t dim = 0;
  const RowOptimizer* optimizer = nullptr;
  float constants[kMaxConstants] = {};  // the row optimizer's, in its order
  // What happens to a gradient before the row optimizer sees it: cut to [clip_min, clip_max], then + l2_decay * weight.
  float clip_min = -FLT_MAX;
  float clip_max = FLT_MAX;
  float l2_decay = 0;
  Number weights = Number::kFloat32;  // as they are stored
  Number state = Number::kFloat32;
  Initializer initializer = Initializer::kConstant;
  float init_a = 0;  // low, mean or value
  float init_b = 0;  // high or standard deviation
  uint64_t seed = 0;
  uint64_t salt = 0;
  Life life;
  bool has_base = false;

  size_t state_dim() const { return optimizer->state_dim(dim); }

  // Offsets in a row, in bytes; all are multiples of 4 but those of the two 16-bit words.
  static constexpr size_t kEpochOffset = Rows::kEpochOffset;
  static constexpr size_t kSeenOffset = 10;
  static constexpr size_t kLifeOffset = 12;
  size_t weights_offset() const { return kLifeOffset + life.life_bytes(); }
  size_t weights_bytes() const { return bytes_of(weights) * dim; }
  size_t state_offset() const { return weights_offset() + whole_words(weights_bytes()); }
  size_t state_bytes() const { return bytes_of(state) * state_dim(); }
  size_t base_offset() const { return state_offset() + whole_words(state_bytes()); }
  size_t row_bytes() const { return base_offset() + (has_base ? 4 * dim : 0); }
  static constexpr size_t whole_words(size_t bytes) { return (bytes + 3) & ~size_t{3}; }
  bool is_float32() const { return weights == Number::kFloat32 && state == Number::kFloat32; }
  // Floats of memory that work on one row needs: its changed gradient; weights and state as floats.
  size_t scratch_floats() const { return is_float32() ? (changes_gradients() ? dim : 0) : 2 * dim + state_dim(); }
  // What a snapshot holds of a row: key, weights, state, and what row life needs.
  size_t saved_bytes() const { return 8 + weights_bytes() + state_bytes() + life.life_bytes() + (life.ages() ? 2 : 0); }

  const char* optimizer_name() const { return optimizer->name; }
  float initial_state() const { return optimizer->initial_state < 0 ? 0.0f : constants[optimizer->initial_state]; }
  bool changes_gradients() const { return clip_min > -FLT_MAX || clip_max < FLT_MAX || l2_decay != 0.0f; }

  // Takes a row optimizer, with the defaults of its constants.
  void choose(const RowOptimizer& chosen) {
    optimizer = &chosen;
    for (size_t i = 0; i < kMaxConstants; ++i) constants[i] = static_cast<float>(chosen.constants[i].otherwise);
  }
};

}  // namespace fleet
