// SGD: w -= lr g. No state.
struct Sgd : ByColumn {
  static constexpr const char* kName = "sgd";
  static constexpr Constant kConstants[kMaxConstants] = {};

  Sgd(const float*, const Rate& rate) : lr(rate.lr) {}

  void column(float g, float& w) const { w -= lr * g; }

  float lr;
};
