// How rows lose their place: too old or too low a score (expired), or the least worth keeping where there are too many.
//
// Nothing here runs by itself. A push evicts the expired rows that it meets, sweeps a slice of the table and brings it down
// to its capacity; so the same pushes leave the same rows. An expired row reads as unseen at once; the sweep only takes its
// memory back, and cannot be seen otherwise. A stripe's lock is held for at most kSliceRows rows at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "schema.h"
#include "stripe.h"

namespace fleet {

class Eviction {
 public:
  static constexpr uint64_t kSliceRows = 4096;  // looked at under one hold of a stripe's lock
  static constexpr uint64_t kSamples = 16;      // rows drawn for each one that capacity evicts

  explicit Eviction(const Schema& schema);  // which outlives this. May throw std::bad_alloc

  float score_of(uint32_t shows, uint32_t clicks) const {
    const Life& life = schema_.life;
    const float clicked = static_cast<float>(clicks < shows ? clicks : shows);
    return life.nonclick * (static_cast<float>(shows) - clicked) + life.click * clicked;
  }

  // The stripe's lock is held for all of these.

  // Whether a row reads as unseen at a step.
  bool expired(const char* row, uint64_t step) const noexcept;
  // The row is pushed to at `step`, with this score. `fresh`: it was just made.
  void touch(Stripe& stripe, char* row, uint64_t step, float score, bool fresh) const noexcept;
  // Removes a row, and notes it for deltas.
  void evict(Stripe& stripe, char* row) const noexcept;
  // Evicts what has expired among up to `most` places from *cursor on, at most kSliceRows, and moves it; returns how many. Rows whose score is
  // below `below` go too. `jump`: the clock goes on so far from `step` that every row expires.
  uint64_t sweep_rows(Stripe& stripe, uint64_t* cursor, uint64_t most, uint64_t step, float below, bool jump) const noexcept;
  // Forgets waiting ids that were not seen for a generation, in the same manner over the index's places.
  void sweep_waiting(Stripe& stripe, uint64_t* cursor, uint64_t most, uint64_t step, bool jump) const noexcept;
  // Evicts up to `count` rows, at most kSliceRows / kSamples, each the worst of kSamples drawn ones; rows pushed to in this
  // tick go last. Returns how many.
  uint64_t evict_worst(Stripe& stripe, uint64_t count, uint64_t step) const noexcept;

 private:
  // In ticks. 0 for a row from the future: trainers that are behind the others push with an earlier step.
  uint16_t age_of(const char* row, uint64_t step) const noexcept {
    const auto age = static_cast<uint16_t>(schema_.life.tick_of(step) - Stripe::seen_of(row));
    return age > UINT16_MAX - max_age_ ? uint16_t{0} : age;
  }
  float score_now(const char* row, uint16_t age) const noexcept;

  const Schema& schema_;
  const uint64_t max_age_;
  std::vector<float> powers_;  // the part of a score that is left, by age in ticks
};

}  // namespace fleet
