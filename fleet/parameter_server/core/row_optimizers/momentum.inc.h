// Momentum: v = momentum v + g; w -= lr v, with nesterov w -= lr (g + momentum v). State: v.
// Lazy: the velocity of a row without a gradient neither decays nor moves it.
// Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", 2013, as
// Paddle's dense kernel writes it.
struct Momentum : ByColumn {
  static constexpr const char* kName = "momentum";
  static constexpr Constant kConstants[kMaxConstants] = {{"momentum", 0.9, 0, 1}, {"nesterov", 0, 0, 2, true}};
  static constexpr size_t kPerColumn = 1;

  Momentum(const float* constants, const Rate& rate) : lr(rate.lr), momentum(constants[0]), nesterov(constants[1] != 0) {}

  void column(float g, float& w, float& v) const {
    v = momentum * v + g;
    w -= lr * (nesterov ? g + momentum * v : v);
  }

  float lr, momentum;
  bool nesterov;
};
