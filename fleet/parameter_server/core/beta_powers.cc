#include "beta_powers.h"

#include <cmath>

namespace fleet {

namespace {

// So far products are followed one by one (below 5 ms); a table that starts beyond, from a snapshot, takes the true power:
// by then the rounding of the products is far below that of 1 - beta^t.
constexpr int64_t kFarAway = 1000000;

}  // namespace

BetaPowers::BetaPowers(float beta1, float beta2) : beta_{beta1, beta2}, power_{beta1, beta2} {}

BetaPowers::Powers BetaPowers::at(int64_t step) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (step < step_) {
    step_ = 1;
    power_ = beta_;
  }
  if (step - step_ > kFarAway) {
    const auto exponent = static_cast<double>(step);
    step_ = step;
    power_ = {static_cast<float>(std::pow(static_cast<double>(beta_.beta1), exponent)),
              static_cast<float>(std::pow(static_cast<double>(beta_.beta2), exponent))};
  }
  for (; step_ < step; ++step_) {
    power_.beta1 *= beta_.beta1;
    power_.beta2 *= beta_.beta2;
  }
  return power_;
}

}  // namespace fleet
