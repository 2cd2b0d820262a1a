// The loops of pool.cc: included once for each SIMD level, see each_level.inc.h. D: floats of a row if known, else 0.

namespace fleet::FLEET_NAMESPACE {
namespace {

constexpr size_t kPoolAhead = 16;  // ids between fetching a row and using it

inline void fetch_row(const float* row, size_t dim, bool writes) {
  const char* at = reinterpret_cast<const char*>(row);
  for (size_t byte = 0; byte < 4 * dim; byte += 64) writes ? __builtin_prefetch(at + byte, 1, 3) : __builtin_prefetch(at + byte, 0, 3);
}

inline float weight_of(const Bags& bags, size_t i) { return bags.weights != nullptr ? bags.weights[i] : 1.0f; }

// 1 / the bag's divisor, or 0 for a bag that reads as zeros.
inline float factor_of(const Bags& bags, size_t begin, size_t end) {
  if (begin == end) return 0.0f;
  if (bags.pooling == Pooling::kSum) return 1.0f;
  float divisor = static_cast<float>(end - begin);
  if (bags.weights != nullptr) {
    divisor = 0.0f;
    const bool squared = bags.pooling == Pooling::kSqrtn;
    for (size_t i = begin; i < end; ++i) divisor += squared ? bags.weights[i] * bags.weights[i] : bags.weights[i];
  }
  if (divisor == 0.0f) return 0.0f;
  return 1.0f / (bags.pooling == Pooling::kSqrtn ? __builtin_sqrtf(divisor) : divisor);
}

// Calls work(bag, begin, end, factor) for every bag.
template <class Work>
inline void each_bag(const Bags& bags, const Work& work) {
  size_t begin = 0;
  for (size_t bag = 0; bag < bags.num_bags; ++bag) {
    const size_t end = begin + (bags.lengths != nullptr ? static_cast<size_t>(bags.lengths[bag]) : 1);
    work(bag, begin, end, factor_of(bags, begin, end));
    begin = end;
  }
}

template <size_t D>
void pool_of(const Bags& bags, const float* rows, size_t dim_, float* out) {
  const size_t dim = D != 0 ? D : dim_;
  each_bag(bags, [&](size_t bag, size_t begin, size_t end, float factor) {
    float* __restrict to = out + bag * dim;
    float sums[D != 0 ? D : 1];  // in registers where the number is known
    float* __restrict sum = D != 0 ? sums : to;
    for (size_t j = 0; j < dim; ++j) sum[j] = 0.0f;
    for (size_t i = begin; i < end && factor != 0.0f; ++i) {
      if (i + kPoolAhead < bags.num_ids) fetch_row(rows + size_t{bags.inverse[i + kPoolAhead]} * dim, dim, false);
      const float* __restrict row = rows + size_t{bags.inverse[i]} * dim;
      const float weight = weight_of(bags, i);
      for (size_t j = 0; j < dim; ++j) sum[j] += weight * row[j];
    }
    for (size_t j = 0; j < dim; ++j) to[j] = sum[j] * factor;
  });
}

template <size_t D>
void unpool_of(const Bags& bags, const float* grads, size_t dim_, float* out) {
  const size_t dim = D != 0 ? D : dim_;
  each_bag(bags, [&](size_t bag, size_t begin, size_t end, float factor) {
    if (factor == 0.0f) return;
    const float* __restrict grad = grads + bag * dim;
    for (size_t i = begin; i < end; ++i) {
      if (i + kPoolAhead < bags.num_ids) fetch_row(out + size_t{bags.inverse[i + kPoolAhead]} * dim, dim, true);
      float* __restrict row = out + size_t{bags.inverse[i]} * dim;
      const float weight = weight_of(bags, i) * factor;
      for (size_t j = 0; j < dim; ++j) row[j] += weight * grad[j];
    }
  });
}

// In a fixed order: eight partial sums, joined by halves.
inline float dot(const float* a, const float* b, size_t dim) {
  float part[8] = {};
  for (size_t j = 0; j < dim; ++j) part[j % 8] += a[j] * b[j];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

void weight_gradients(const Bags& bags, const float* rows, const float* grads, size_t dim, float* out) {
  each_bag(bags, [&](size_t bag, size_t begin, size_t end, float factor) {
    float along = 0.0f;  // the bag's row times its gradient
    for (size_t i = begin; i < end; ++i) {
      out[i] = factor * dot(rows + size_t{bags.inverse[i]} * dim, grads + bag * dim, dim);
      along += bags.weights[i] * out[i];
    }
    if (bags.pooling == Pooling::kSum) return;
    for (size_t i = begin; i < end; ++i) {
      out[i] -= along * (bags.pooling == Pooling::kMean ? factor : factor * factor * bags.weights[i]);
    }
  });
}

void pool(const Bags& bags, const float* rows, size_t dim, float* out) {
  switch (dim) {
    case 8: return pool_of<8>(bags, rows, dim, out);
    case 10: return pool_of<10>(bags, rows, dim, out);
    case 16: return pool_of<16>(bags, rows, dim, out);
    case 32: return pool_of<32>(bags, rows, dim, out);
    default: return pool_of<0>(bags, rows, dim, out);
  }
}

void unpool(const Bags& bags, const float* grads, size_t dim, float* out) {
  switch (dim) {
    case 8: return unpool_of<8>(bags, grads, dim, out);
    case 10: return unpool_of<10>(bags, grads, dim, out);
    case 16: return unpool_of<16>(bags, grads, dim, out);
    case 32: return unpool_of<32>(bags, grads, dim, out);
    default: return unpool_of<0>(bags, grads, dim, out);
  }
}

constexpr Loops kLoops{pool, unpool, weight_gradients};

}  // namespace
}  // namespace fleet::FLEET_NAMESPACE
