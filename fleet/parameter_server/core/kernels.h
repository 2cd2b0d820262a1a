// The loops over rows, compiled once for each SIMD level and chosen at run time.
//
// All levels give the same bits: IEEE operations only, no contraction into FMA (-ffp-contract=off), sums in a fixed order
// (16 partial sums, then halves). Wheels are built for the baseline CPU; the levels live in target regions of kernels.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "schema.h"
#include "stripe.h"

namespace fleet {

enum class Simd { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// Ids of one stripe, whose lock the caller holds. The i-th id belongs to row `order[i]` of the caller's arrays, or to row i if
// order is nullptr. Ids may repeat; they are worked on in order.
struct Run {
  Stripe& stripe;
  const Schema& schema;
  const uint64_t* ids;
  const uint32_t* order;
  size_t count;
  float* scratch;  // Schema::scratch_floats()
};

struct Kernels {
  Simd level;
  const char* name;

  // Those that create rows return false if the system has no memory: ids before that point were worked on, the others not.
  bool (*pull)(const Run& run, float* out);  // creates missing rows
  void (*peek)(const Run& run, float* out);  // missing ids read as their initial value
  bool (*push)(const Run& run, const float* grads, const Rate& rate);
  // state may be nullptr: the initial state.
  bool (*assign)(const Run& run, const float* weights, const float* state);
  void (*read)(const Run& run, bool* found, float* weights, float* state);
  void (*find)(const Run& run, char** rows);  // rows[i] of the i-th id of the run, nullptr if there is none
  bool (*make)(const Run& run);               // creates missing rows

  // Of a trainer's copies: see copies.h. The first two pass over rows that are not fresh, write their places (as Run.order says) to
  // `stale`, and return how many.
  size_t (*pull_fresh)(const Run& run, float* out, uint32_t* stale);
  size_t (*push_fresh)(const Run& run, const float* grads, const Rate& rate, uint32_t* stale);
  bool (*take)(const Run& run, float* weights, bool owed);
  void (*moves)(const Run& run, float parts, bool follow, float* out);
  void (*settle)(const Run& run, const float* sent);

  size_t (*count_nonfinite)(const float* values, size_t count);
  // out[i] = rows[inverse[i]]; every inverse[i] is a valid row.
  void (*expand)(const float* rows, size_t dim, const uint32_t* inverse, size_t count, float* out);
  // out[inverse[i]] += grads[i] in order of i.
  void (*add_rows)(const float* grads, size_t dim, const uint32_t* inverse, size_t count, float* out);
  // values *= scale; returns how many results are not finite.
  size_t (*scale)(float* values, size_t count, float factor);
  void (*load_numbers)(Number number, const char* from, size_t count, float* to);
  void (*store_numbers)(Number number, const float* from, size_t count, char* to);  // rounded to nearest
};

// The best level that this CPU and this build have.
Simd best_simd() noexcept;

// The kernels of a level; nullptr if this CPU or this build does not have it.
const Kernels* kernels_of(Simd level) noexcept;

// The kernels in force: the best level, unless choose_kernels() said otherwise. Thread-safe.
const Kernels& kernels() noexcept;
void choose_kernels(const Kernels& chosen) noexcept;

}  // namespace fleet
