// RMSProp: s = rho s + (1 - rho) g^2; v = momentum v + lr g / sqrt(s + epsilon); w -= v. State: s, v; centered: s, v, m with
// m = rho m + (1 - rho) g and sqrt(s - m^2 + epsilon). Lazy: state of a row without a gradient stays, and so does the row.
// s - m^2 is no less than 0 but for rounding, which a large and steady gradient brings out: below 0 it counts as 0.
// Source: Hinton, Coursera lecture 6e, 2012; Graves, "Generating sequences with recurrent neural networks", 2013 (centered), as
// Paddle's kernel writes them.
struct RmsProp : ByColumn {
  static constexpr const char* kName = "rmsprop";
  static constexpr Constant kConstants[kMaxConstants] = {
      {"rho", 0.95, 0, 1}, {"epsilon", 1e-6, kSmallest}, {"momentum", 0, 0, 1}};
  static constexpr size_t kPerColumn = 2;

  RmsProp(const float* constants, const Rate& rate)
      : lr(rate.lr), rho(constants[0]), epsilon(constants[1]), momentum(constants[2]) {}

  void column(float g, float& w, float& s, float& v) const {
    s = rho * s + (1.0f - rho) * g * g;
    v = momentum * v + lr * g / __builtin_sqrtf(s + epsilon);
    w -= v;
  }

  float lr, rho, epsilon, momentum;
};

struct CenteredRmsProp : RmsProp {
  static constexpr const char* kName = "rmsprop_centered";
  static constexpr size_t kPerColumn = 3;

  using RmsProp::RmsProp;

  void column(float g, float& w, float& s, float& v, float& m) const {
    s = rho * s + (1.0f - rho) * g * g;
    m = rho * m + (1.0f - rho) * g;
    const float spread = s - m * m;
    v = momentum * v + lr * g / __builtin_sqrtf((spread > 0.0f ? spread : 0.0f) + epsilon);
    w -= v;
  }
};
