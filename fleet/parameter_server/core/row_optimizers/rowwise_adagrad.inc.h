// Row-wise Adagrad: s += mean(g^2) over the row; w -= lr / (sqrt(s) + epsilon) g. State: s, one float a row.
// Source: Mudigere et al., "Software-hardware co-design for fast and scalable training of deep learning recommendation models",
// 2022 (section on optimizers).

// Sum of squares in a fixed order: 16 partial sums, joined by halves. In vectors of four, which every level has: as an array of
// 16 floats the joining went through memory and cost a row-wise push a third of its speed on cached rows.
typedef float Four __attribute__((vector_size(16)));

inline Four load_four(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

// D as in kernels.inc.h: the length if it is known when compiling, else 0.
template <size_t D>
inline float sum_of_squares(const float* g, size_t dim) {
  const size_t n = D != 0 ? D : dim;
  Four part[4] = {};
  const auto add = [&part](const float* from) {
    for (size_t k = 0; k < 4; ++k) part[k] += load_four(from + 4 * k) * load_four(from + 4 * k);
  };
  size_t j = 0;
  for (; j + 16 <= n; j += 16) add(g + j);
  if (j < n) {
    float rest[16] = {};
    std::memcpy(rest, g + j, (n - j) * sizeof(float));
    add(rest);
  }
  const Four sum = (part[0] + part[2]) + (part[1] + part[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

struct RowwiseAdagrad : ByColumn {
  static constexpr const char* kName = "rowwise_adagrad";
  static constexpr Constant kConstants[kMaxConstants] = {{"epsilon", 1e-6, kSmallest}, {"initial_accumulator_value", 0}};
  static constexpr size_t kPerRow = 1;
  static constexpr int kInitialState = 1;

  RowwiseAdagrad(const float* constants, const Rate& rate) : lr(rate.lr), epsilon(constants[0]) {}

  // What column() gets beside its gradient.
  template <size_t D>
  float whole_row(const float* g, size_t n, float& s) const {
    s += sum_of_squares<D>(g, n) / static_cast<float>(n);
    return lr / (__builtin_sqrtf(s) + epsilon);
  }

  void column(float g, float& w, float factor) const { w -= factor * g; }

  float lr, epsilon;
};
