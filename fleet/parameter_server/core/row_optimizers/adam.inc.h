// Adam, step t: m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// w -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon sqrt(1 - beta2^t)). State: m, v.
// Lazy: rows without a gradient stay as they are; t counts the table's steps, not the row's.
// Step t of Paddle's sparse kernel on CPUs uses beta^(t + 1), and so does this one; dense = 1: beta^t, as its dense kernel.
// Source: Kingma, Ba, "Adam: a method for stochastic optimization", 2015, section 2, as Paddle's kernels write it.
struct Adam : ByColumn {
  static constexpr const char* kName = "adam";
  static constexpr Constant kConstants[kMaxConstants] = {
      {"beta1", 0.9, 0, 1}, {"beta2", 0.999, 0, 1}, {"epsilon", 1e-8, kSmallest}, {"dense", 0, 0, 2, true}};
  static constexpr size_t kPerColumn = 2;
  static constexpr bool kUsesPowers = true;

  Adam(const float* constants, const Rate& rate) : Adam(constants, rate, constants[3] != 0) {}

  Adam(const float* constants, const Rate& rate, bool dense) : beta1(constants[0]), beta2(constants[1]) {
    const float power1 = dense ? rate.beta1_power : rate.beta1_power * beta1;
    const float power2 = dense ? rate.beta2_power : rate.beta2_power * beta2;
    const float root = __builtin_sqrtf(1.0f - power2);
    scaled_lr = rate.lr * (root / (1.0f - power1));
    epsilon = constants[2] * root;
  }

  void column(float g, float& w, float& m, float& v) const {
    m = beta1 * m + (1.0f - beta1) * g;
    v = beta2 * v + (1.0f - beta2) * g * g;
    w -= scaled_lr * (m / (__builtin_sqrtf(v) + epsilon));
  }

  float beta1, beta2, scaled_lr, epsilon;
};
