// The loops over a trainer's copies of rows: see copies.h. Included into kernels.inc.h, once for each SIMD level.

inline bool is_fresh(const Run& run, const char* row) { return row != nullptr && Stripe::epoch_of(row) == run.stripe.epoch; }

inline float* base_of(const Schema& schema, char* row) { return reinterpret_cast<float*>(row + schema.base_offset()); }

size_t pull_fresh(const Run& run, float* out, uint32_t* stale) {
  const size_t dim = run.schema.dim;
  size_t count = 0;
  walk<Missing::kNone, false, 0>(
      run, run.schema.state_offset(), [=](size_t at) { fetch_for_write(out + at * dim, dim * 4); },
      [&run, &count, dim, out, stale](size_t at, uint64_t, char* row) {
        if (is_fresh(run, row)) {
          read_weights<0, true>(run.schema, row, out + at * dim);
        } else {
          stale[count++] = static_cast<uint32_t>(at);
        }
      });
  return count;
}

size_t push_fresh(const Run& run, const float* grads, const Rate& rate, uint32_t* stale) {
  const size_t dim = run.schema.dim;
  const Prepared prepared = kPrepare.of[run.schema.optimizer->number](run.schema, rate);
  size_t count = 0;
  walk<Missing::kNone, true, 0>(
      run, run.schema.base_offset(), [=](size_t at) { fetch_for_read(grads + at * dim, dim * 4); },
      [&run, &prepared, &count, dim, grads, stale](size_t at, uint64_t, char* row) {
        if (is_fresh(run, row)) {
          prepared.update(prepared, run, row, grads + at * dim);
        } else {
          stale[count++] = static_cast<uint32_t>(at);
        }
      });
  return count;
}

bool take(const Run& run, float* weights, bool owed) {
  const size_t dim = run.schema.dim;
  return walk<Missing::kBlank, true, 0>(
      run, run.schema.row_bytes(), [=](size_t at) { fetch_for_read(weights + at * dim, dim * 4); },
      [&run, dim, weights, owed](size_t at, uint64_t, char* row) {
        auto* __restrict w = reinterpret_cast<float*>(Stripe::weights_of(run.schema, row));
        float* __restrict base = base_of(run.schema, row);
        float* __restrict given = weights + at * dim;
        before_change(run, row);
        for (size_t j = 0; j < dim; ++j) {
          const float server = given[j];
          const float now = owed ? server + (w[j] - base[j]) : server;
          w[j] = now;
          base[j] = server;
          given[j] = now;
        }
      });
}

void moves(const Run& run, float parts, bool follow, float* out) {
  const size_t dim = run.schema.dim;
  const auto ahead = [=](size_t at) { fetch_for_write(out + at * dim, dim * 4); };
  const auto work = [&run, dim, parts, follow, out](size_t at, uint64_t, char* row) {
    float* __restrict to = out + at * dim;
    if (row == nullptr) return fill(to, dim, 0.0f);
    const auto* __restrict w = reinterpret_cast<const float*>(Stripe::weights_of(run.schema, row));
    float* __restrict base = base_of(run.schema, row);
    for (size_t j = 0; j < dim; ++j) to[j] = -((w[j] - base[j]) / parts);
    if (!follow) return;
    for (size_t j = 0; j < dim; ++j) base[j] -= to[j];
  };
  walk<Missing::kNone, true, 0>(run, run.schema.row_bytes(), ahead, work);
}

void settle(const Run& run, const float* sent) {
  const size_t dim = run.schema.dim;
  walk<Missing::kNone, true, 0>(
      run, run.schema.row_bytes(), [](size_t) {},
      [&run, dim, sent](size_t at, uint64_t, char* row) {
        if (row == nullptr) return;
        const auto* __restrict w = reinterpret_cast<const float*>(Stripe::weights_of(run.schema, row));
        float* __restrict base = base_of(run.schema, row);
        for (size_t j = 0; j < dim; ++j) base[j] = sent != nullptr ? base[j] + sent[at * dim + j] : w[j];
      });
}
