#include "schema.h"

#include <cmath>

namespace fleet {

Rate rate_of(const Schema& schema, float lr, int64_t step) noexcept {
  if (schema.optimizer != Optimizer::kAdam) return {lr, schema.epsilon};
  // Paddle multiplies its float32 powers step by step; the true power differs from that by rounding only.
  const auto beta1_pow = static_cast<float>(std::pow(static_cast<double>(schema.beta1), static_cast<double>(step)));
  const auto beta2_pow = static_cast<float>(std::pow(static_cast<double>(schema.beta2), static_cast<double>(step)));
  const float root = std::sqrt(1.0f - beta2_pow);
  return {lr * (root / (1.0f - beta1_pow)), schema.epsilon * root};
}

}  // namespace fleet
