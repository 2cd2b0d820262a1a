// AdamW: w -= lr weight_decay w, then Adam's step with beta^t. State: m, v.
// Lazy: only rows with a gradient decay.
// Source: Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, as Paddle's dense kernel writes it (it has no sparse one).
struct AdamW : Adam {
  static constexpr const char* kName = "adamw";
  static constexpr Constant kConstants[kMaxConstants] = {
      {"beta1", 0.9, 0, 1}, {"beta2", 0.999, 0, 1}, {"epsilon", 1e-8, kSmallest}, {"weight_decay", 0.01}};

  AdamW(const float* constants, const Rate& rate) : Adam(constants, rate, true), decay(rate.lr * constants[3]) {}

  void column(float g, float& w, float& m, float& v) const {
    w -= decay * w;
    Adam::column(g, w, m, v);
  }

  float decay;
};
