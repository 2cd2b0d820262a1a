// The powers of Adam's betas at a step, with Paddle's rounding: it keeps beta^t in float32 and multiplies it once a step, so that
// 1 - beta2^t is off by up to 3e-5 of itself in the first steps. Whoever wants to equal Paddle multiplies too.
#pragma once

#include <cstdint>
#include <mutex>

namespace fleet {

class BetaPowers {
 public:
  struct Powers {
    float beta1;
    float beta2;
  };

  BetaPowers(float beta1, float beta2);

  // The betas to the power of `step` (from 1). Steps may come in any order; a step after the last one costs what lies between.
  Powers at(int64_t step) noexcept;

 private:
  const Powers beta_;
  std::mutex mutex_;  // guards the two below
  int64_t step_ = 1;
  Powers power_;
};

}  // namespace fleet
