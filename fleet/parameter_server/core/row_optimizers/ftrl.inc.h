// FTRL-proximal, with rate lr: s = (sqrt(n + g^2) - sqrt(n)) / lr; z += g - s w; n += g^2;
// w = 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / lr + l2). State: z, n.
// The weight follows from z and n alone: a row's initial value counts in its first update and is forgotten.
// Source: McMahan et al., "Ad click prediction: a view from the trenches", 2013, algorithm 1.
struct Ftrl : ByColumn {
  static constexpr const char* kName = "ftrl";
  static constexpr Constant kConstants[kMaxConstants] = {{"l1", 0}, {"l2", 0}, {"beta", 1, kSmallest}};
  static constexpr size_t kPerColumn = 2;
  static constexpr bool kDividesByRate = true;

  Ftrl(const float* constants, const Rate& rate) : lr(rate.lr), l1(constants[0]), l2(constants[1]), beta(constants[2]) {}

  void column(float g, float& w, float& z, float& n) const {
    const float sum = n + g * g;
    const float root = __builtin_sqrtf(sum);
    z += g - (root - __builtin_sqrtf(n)) / lr * w;
    n = sum;
    const float divisor = (beta + root) / lr + l2;
    const float shrunk = z - __builtin_copysignf(l1, z);
    w = __builtin_fabsf(z) <= l1 ? 0.0f : -shrunk / divisor;
  }

  float lr, l1, l2, beta;
};
