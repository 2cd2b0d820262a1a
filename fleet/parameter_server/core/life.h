// Row life: when an id earns its row and when it loses it again. The rules of a table, as data; admission.h and eviction.h obey.
//
// Time is the table's step. A row's `seen` is the tick of its last push; a tick is unit() steps, so chosen that no age up to
// the limit takes more than kMaxAge of the 65536 ticks that `seen` can tell apart.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fleet {

enum class Admission { kAll, kCount, kProbability, kScore };

struct Life {
  static constexpr uint64_t kMaxAge = 16384;       // ticks
  static constexpr uint32_t kPartsOfScore = 2000;  // a waiting id's score is counted in this part of the score that admits

  Admission admission = Admission::kAll;
  uint32_t admit_count = 0;      // kCount: sightings that earn a row, at most Index::kMaxCount
  double admit_probability = 0;  // kProbability: of each sighting
  double admit_score = 0;        // kScore
  bool unseen_zero = false;      // an id without a row reads as zero, not as its initial value

  uint64_t age_steps = 0;  // rows not pushed to for more steps go; 0: none do
  bool scored = false;     // a row carries its score: 4 bytes of life
  float nonclick = 1;      // score = nonclick * (shows - clicks) + click * clicks
  float click = 1;
  double decay = 1;  // of the score, every decay_steps steps, evenly over them
  uint64_t decay_steps = 1;
  float delete_below = 0;      // rows whose score is below it go
  uint64_t capacity = 0;       // rows of this server; 0: no limit
  bool keep_frequent = false;  // capacity keeps the highest scores; else the rows pushed to last

  bool any() const { return admits() || ages(); }
  bool admits() const { return admission != Admission::kAll; }
  bool lets_wait() const { return admission == Admission::kCount || admission == Admission::kScore; }
  bool expires() const { return age_steps > 0; }  // delete_below > 0 comes with age_steps > 0
  bool ages() const { return expires() || capacity > 0; }
  size_t life_bytes() const { return scored ? 4 : 0; }

  uint64_t unit() const { return age_steps <= kMaxAge ? 1 : (age_steps + kMaxAge - 1) / kMaxAge; }
  // Older rows go; where none do, ages stop here.
  uint64_t max_age() const { return age_steps > 0 ? (age_steps + unit() - 1) / unit() : kMaxAge; }
  uint64_t tick_of(uint64_t step) const { return step / unit(); }  // `seen` holds its low 16 bits

  // Steps in which the sweep passes once over all rows: memory is taken back at most that much later than it could be.
  uint64_t lap_steps() const {
    if (delete_below > 0 && decay_steps < age_steps) return decay_steps;
    return age_steps > 0 ? age_steps : kMaxAge;
  }
  // A waiting id that was not seen for one whole generation of age_steps steps, so for 1 to 2 of them, begins anew.
  uint32_t generation_of(uint64_t step) const { return age_steps > 0 ? static_cast<uint32_t>(step / age_steps) & 3 : 0; }
};

}  // namespace fleet
