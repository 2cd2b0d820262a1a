// Compiles kernels.inc.h once for each SIMD level, and chooses among them.
#include "kernels.h"

#include <atomic>
#include <cstring>

#include "initial_values.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define FLEET_BODY "kernels.inc.h"
#include "each_level.inc.h"

namespace fleet {

namespace {
std::atomic<const Kernels*> chosen_kernels{nullptr};
}

const Kernels* kernels_of(Simd level) noexcept {
  switch (level) {
    case Simd::kPortable: return &portable::kKernels;
#ifdef FLEET_X86
    case Simd::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")
                 ? &avx2::kKernels
                 : nullptr;
    case Simd::kAvx512:
      return kernels_of(Simd::kAvx2) != nullptr && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl")
                 ? &avx512::kKernels
                 : nullptr;
#else
    default: return nullptr;
#endif
  }
  return nullptr;
}

Simd best_simd() noexcept {
  for (Simd level : {Simd::kAvx512, Simd::kAvx2}) {
    if (kernels_of(level) != nullptr) return level;
  }
  return Simd::kPortable;
}

const Kernels& kernels() noexcept {
  const Kernels* chosen = chosen_kernels.load(std::memory_order_acquire);
  if (chosen != nullptr) return *chosen;
  chosen = kernels_of(best_simd());
  chosen_kernels.store(chosen, std::memory_order_release);
  return *chosen;
}

void choose_kernels(const Kernels& chosen) noexcept { chosen_kernels.store(&chosen, std::memory_order_release); }

}  // namespace fleet
