// Includes the file FLEET_BODY once for each SIMD level, inside that level's target region, with FLEET_NAMESPACE and FLEET_LEVEL
// set. No include guard. Every header that defines functions is included before this: a function of the standard library compiled
// inside a region could be picked by the linker for everybody. The body says which level it is by comparing FLEET_LEVEL.

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FLEET_X86 1
#endif

#define FLEET_LEVEL_PORTABLE 0
#define FLEET_LEVEL_AVX2 1
#define FLEET_LEVEL_AVX512 2

#define FLEET_NAMESPACE portable
#define FLEET_LEVEL FLEET_LEVEL_PORTABLE
#include FLEET_BODY
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
#include FLEET_BODY
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
#include FLEET_BODY
#undef FLEET_NAMESPACE
#undef FLEET_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // FLEET_X86
