// A table: uint64 key -> row of `dim` weights with optimizer state. Any id is a key; none is reserved.
//
// Thread-safe: any number of threads may call any method at once. Keys belong to at most 16 lock stripes by hash; inside a call
// a lock is taken once per group of ids of one stripe. A row is read and written whole under its stripe's lock; a call as a
// whole is not atomic towards other calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "beta_powers.h"
#include "schema.h"
#include "status.h"
#include "stripe.h"

namespace fleet {

class Table {
 public:
  // `num_stripes` is a power of two, 1 to kMaxStripes. The schema was checked: see check_schema().
  Table(const Schema& schema, uint32_t num_stripes);
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // Copies the weights of ids[n] to out[n, dim]. Missing rows: created if `create` (and counted), else they read as their
  // initial value.
  Status pull(const uint64_t* ids, size_t n, float* out, bool create, uint64_t* num_created) noexcept;

  // Applies grads[n, dim] to the rows of ids[n], in order if ids repeat; creates missing rows first. If any gradient is not
  // finite, changes nothing and says how many in `num_nonfinite`. Out of memory: some ids were applied, others not.
  Status push(const uint64_t* ids, size_t n, const float* grads, float lr, int64_t step, size_t* num_nonfinite) noexcept;

  // Sets the weights of ids[n], and their state to state[n, state_dim] or, if nullptr, to its initial value.
  Status assign(const uint64_t* ids, size_t n, const float* weights, const float* state) noexcept;

  // Copies found[n], weights[n, dim], state[n, state_dim]; missing ids read as initial values. Creates nothing.
  Status read(const uint64_t* ids, size_t n, bool* found, float* weights, float* state) noexcept;

  // Appends every key, stripe by stripe in order of creation.
  Status keys(std::vector<uint64_t>* out) noexcept;

  uint64_t size() noexcept;
  size_t memory_bytes() noexcept;  // rows populated and index
  const Schema& schema() const { return schema_; }
  uint32_t num_stripes() const { return static_cast<uint32_t>(stripes_.size()); }
  Stripe& stripe(uint32_t number) { return *stripes_[number]; }

 private:
  // Calls work(Run, offset) once per group of ids of one stripe, with its lock held. Positions in the caller's arrays are
  // offset + order[i], or offset + i where order is nullptr. Stops when work returns false, which means no memory.
  template <class Work>
  Status by_stripe(const uint64_t* ids, size_t n, const Work& work) noexcept;
  uint32_t stripe_of(uint64_t id) const { return stripe_of_hash(hash_of(id, schema_.salt)) >> stripe_shift_; }

  // The formulas are those of Paddle's sparse kernels.
  Rate rate_of(float lr, int64_t step) noexcept;

  const Schema schema_;
  BetaPowers beta_powers_;
  uint32_t stripe_shift_ = 0;
  std::vector<std::unique_ptr<Stripe>> stripes_;
};

}  // namespace fleet
