// Compiles kernels.inc.h once for each SIMD level. Every header that defines functions is included before the target regions:
// a function of the standard library compiled inside one could be picked by the linker for everybody.
#include "kernels.h"

#include <atomic>
#include <cstring>

#include "initial_values.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FLEET_X86 1
#include <immintrin.h>
#endif

#define FLEET_LEVEL_PORTABLE 0
#define FLEET_LEVEL_AVX2 1
#define FLEET_LEVEL_AVX512 2

#define FLEET_NAMESPACE portable
#define FLEET_LEVEL FLEET_LEVEL_PORTABLE
#include "kernels.inc.h"
#undef FLEET_NAMESPACE
#undef FLEET_LEVEL

#ifdef FLEET_X86

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")
#endif
#define FLEET_NAMESPACE avx2
#define FLEET_LEVEL FLEET_LEVEL_AVX2
#include "kernels.inc.h"
#undef FLEET_NAMESPACE
#undef FLEET_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,bmi,bmi2,prefer-vector-width=512")
#endif
#define FLEET_NAMESPACE avx512
#define FLEET_LEVEL FLEET_LEVEL_AVX512
#include "kernels.inc.h"
#undef FLEET_NAMESPACE
#undef FLEET_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // FLEET_X86

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
