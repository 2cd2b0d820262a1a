// Adagrad: s += g^2; w -= lr g / (sqrt(s) + epsilon). State: s.
// Source: Duchi, Hazan, Singer, "Adaptive subgradient methods", 2011, as Paddle's sparse kernel writes it.
struct Adagrad : ByColumn {
  static constexpr const char* kName = "adagrad";
  static constexpr Constant kConstants[kMaxConstants] = {{"epsilon", 1e-6, kSmallest}, {"initial_accumulator_value", 0}};
  static constexpr size_t kPerColumn = 1;
  static constexpr int kInitialState = 1;

  Adagrad(const float* constants, const Rate& rate) : lr(rate.lr), epsilon(constants[0]) {}

  void column(float g, float& w, float& s) const {
    s += g * g;
    w -= lr * g / (__builtin_sqrtf(s) + epsilon);
  }

  float lr, epsilon;
};
