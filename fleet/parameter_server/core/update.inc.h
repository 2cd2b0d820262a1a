// How a push changes one row. Included into kernels.inc.h, once for each SIMD level.

#include "row_optimizers/list.inc.h"

// A row optimizer with the numbers of one push, and how it changes a row.
struct Prepared {
  alignas(16) char optimizer[48];
  uint64_t noise;
  void (*update)(const Prepared& prepared, const Run& run, char* row, const float* g);
};

// One row: weights w[n], state s, gradient g[n]. D is n if it is known when compiling, else 0.
template <class O, size_t D>
inline void update_floats(const O& o, size_t dim, float* __restrict w, float* __restrict s, const float* __restrict g) {
  const size_t n = D != 0 ? D : dim;
  if constexpr (O::kPerRow == 1) {
    static_assert(O::kPerColumn == 0, "no row optimizer has both");
    const float of_row = o.template whole_row<D>(g, n, s[0]);
    for (size_t j = 0; j < n; ++j) o.column(g[j], w[j], of_row);
  } else if constexpr (O::kPerColumn == 0) {
    for (size_t j = 0; j < n; ++j) o.column(g[j], w[j]);
  } else {
    static_assert(O::kPerColumn <= 3, "write one more case");
    for (size_t j = 0; j < n; ++j) {
      float weight = w[j];
      float state[O::kPerColumn];
      for (size_t k = 0; k < O::kPerColumn; ++k) state[k] = s[k * n + j];
      if constexpr (O::kPerColumn == 1) {
        o.column(g[j], weight, state[0]);
      } else if constexpr (O::kPerColumn == 2) {
        o.column(g[j], weight, state[0], state[1]);
      } else {
        o.column(g[j], weight, state[0], state[1], state[2]);
      }
      w[j] = weight;
      for (size_t k = 0; k < O::kPerColumn; ++k) s[k * n + j] = state[k];
    }
  }
}

// The gradient as the row optimizer sees it: clipped, then with the decay of the weights.
inline const float* change_gradient(const Schema& schema, const float* __restrict w, const float* __restrict g,
                                    float* __restrict to) {
  const float low = schema.clip_min;
  const float high = schema.clip_max;
  for (size_t j = 0; j < schema.dim; ++j) {
    const float above = g[j] < low ? low : g[j];
    to[j] = (above > high ? high : above) + schema.l2_decay * w[j];
  }
  return to;
}

// The rows of most tables: floats, changed where they lie.
template <class O, size_t D>
void update_in_place(const Prepared& prepared, const Run& run, char* row, const float* g) {
  const O optimizer = *reinterpret_cast<const O*>(prepared.optimizer);  // a copy: known not to be what the loops write to
  const size_t dim = D != 0 ? D : run.schema.dim;
  auto* w = reinterpret_cast<float*>(Stripe::weights_of(run.schema, row));
  update_floats<O, D>(optimizer, dim, w, w + dim, g);
}

// Changed gradients, and rows of 16 bits.
template <class O>
void update_any(const Prepared& prepared, const Run& run, char* row, const float* g) {
  const O optimizer = *reinterpret_cast<const O*>(prepared.optimizer);
  const Schema& schema = run.schema;
  char* weights = Stripe::weights_of(schema, row);
  if (schema.is_float32()) {
    auto* w = reinterpret_cast<float*>(weights);
    update_floats<O, 0>(optimizer, schema.dim, w, w + schema.dim, change_gradient(schema, w, g, run.scratch));
    return;
  }
  char* state = Stripe::state_of(schema, row);
  const size_t state_dim = schema.state_dim();
  float* w = run.scratch + schema.dim;
  float* s = w + schema.dim;
  load_numbers(schema.weights, weights, schema.dim, w);
  load_numbers(schema.state, state, state_dim, s);
  if (schema.changes_gradients()) g = change_gradient(schema, w, g, run.scratch);
  update_floats<O, 0>(optimizer, schema.dim, w, s, g);
  const uint64_t seed = mix64(Stripe::key_of(row) + prepared.noise);
  store_random(schema.weights, w, schema.dim, weights, static_cast<uint32_t>(seed));
  store_random(schema.state, s, state_dim, state, static_cast<uint32_t>(seed >> 32));
}

template <class O>
Prepared prepare(const Schema& schema, const Rate& rate) {
  static_assert(sizeof(O) <= sizeof(Prepared::optimizer) && alignof(O) <= 16, "make Prepared::optimizer larger");
  Prepared prepared;
  const O optimizer(schema.constants, rate);
  std::memcpy(prepared.optimizer, &optimizer, sizeof optimizer);
  prepared.noise = rate.noise;
  if (schema.scratch_floats() > 0) {
    prepared.update = update_any<O>;
    return prepared;
  }
  switch (schema.dim) {
    case 8: prepared.update = update_in_place<O, 8>; break;
    case 16: prepared.update = update_in_place<O, 16>; break;
    case 32: prepared.update = update_in_place<O, 32>; break;
    default: prepared.update = update_in_place<O, 0>; break;
  }
  return prepared;
}

// By the number of the row optimizer.
template <class... All>
struct Prepare {
  Prepared (*of[sizeof...(All)])(const Schema& schema, const Rate& rate) = {prepare<All>...};
};

constexpr RowOptimizerList<Prepare> kPrepare;
