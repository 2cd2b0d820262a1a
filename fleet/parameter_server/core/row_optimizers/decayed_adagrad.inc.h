// Adagrad with decay: s = decay s + (1 - decay) g^2; w -= lr g / (sqrt(s) + epsilon). State: s.
// The sum of squares forgets, so that the rate of a frequent row does not die. Lazy: s of a row without a gradient stays.
// Source: Paddle's operator decayed_adagrad.
struct DecayedAdagrad : ByColumn {
  static constexpr const char* kName = "decayed_adagrad";
  static constexpr Constant kConstants[kMaxConstants] = {
      {"epsilon", 1e-6, kSmallest}, {"initial_accumulator_value", 0}, {"decay", 0.95, 0, 1}};
  static constexpr size_t kPerColumn = 1;
  static constexpr int kInitialState = 1;

  DecayedAdagrad(const float* constants, const Rate& rate) : lr(rate.lr), epsilon(constants[0]), decay(constants[2]) {}

  void column(float g, float& w, float& s) const {
    s = decay * s + (1.0f - decay) * g * g;
    w -= lr * g / (__builtin_sqrtf(s) + epsilon);
  }

  float lr, epsilon, decay;
};
