// The powers of Adam's betas that Paddle's sparse kernel uses at a step, rounding included.
//
// Paddle keeps beta^t in float32 and multiplies it once a step, so that 1 - beta2^t is off by up to 3e-5 of itself in the first
// steps: whoever wants to equal Paddle multiplies too. And on the CPU its sparse kernel multiplies *before* it uses the power
// (the output is the input's memory), so that step t uses beta^(t + 1), while its dense kernel uses beta^t.
// Source: Paddle 3.3.1, phi/kernels/selected_rows/cpu/adam_kernel.cc; seen in tests/core/test_optimizers_equal_paddle.py.
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

  // The powers that step `step` (from 1) uses. Steps may come in any order; a step after the last one costs what lies between.
  Powers at(int64_t step) noexcept;

 private:
  const Powers beta_;
  std::mutex mutex_;  // guards the two below
  int64_t step_ = 0;  // 0: before the first step
  Powers power_;
};

}  // namespace fleet
