#include "admission.h"

#include <algorithm>
#include <cmath>

namespace fleet {

namespace {

bool by_chance(const Schema& schema, uint64_t id, uint32_t shows, uint64_t step) {
  const double of_none = std::pow(1.0 - schema.life.admit_probability, static_cast<double>(shows));
  const uint64_t bits = mix64(mix64(mix64(schema.seed ^ 0x61646d6974ULL) ^ schema.salt) + mix64(id ^ mix64(step)));
  return static_cast<double>(bits >> 11) * 0x1p-53 >= of_none;
}

}  // namespace

Entrance admit(Stripe& stripe, const Schema& schema, const Eviction& eviction, uint64_t id, uint64_t hash, uint32_t shows,
               uint32_t clicks, uint64_t step, uint64_t now) noexcept {
  const Life& life = schema.life;
  if (life.admission == Admission::kAll) return Entrance::kAdmitted;
  if (life.admission == Admission::kProbability) {
    return by_chance(schema, id, shows, step) ? Entrance::kAdmitted : Entrance::kWaits;
  }
  uint32_t needed = life.admit_count;
  uint64_t gained = shows;
  if (life.admission == Admission::kScore) {
    needed = Life::kPartsOfScore;
    gained = static_cast<uint64_t>(std::llround(std::min(1.0, eviction.score_of(shows, clicks) / life.admit_score) * needed));
  }
  const uint32_t generation = life.generation_of(now);
  uint64_t* entry = stripe.index.find_waiting(hash);
  const uint64_t before = entry == nullptr || Index::is_stale(*entry, generation) ? 0 : Index::count_of(*entry);
  const uint64_t count = std::min<uint64_t>(before + gained, needed);
  if (count == needed) {
    if (entry != nullptr) {
      stripe.before_waiting_changes(*entry);
      stripe.index.erase(entry, stripe.rows, schema.salt);
    }
    return Entrance::kAdmitted;
  }
  if (entry == nullptr) {
    if (!stripe.index.reserve_one(stripe.rows, schema.salt) || !stripe.index.can_wait()) return Entrance::kNoMemory;
    stripe.before_waiting_comes(hash);
    stripe.index.add_waiting(Index::with_count(Index::want_waiting(hash), static_cast<uint32_t>(count), generation));
  } else {
    stripe.before_waiting_changes(*entry);
    *entry = Index::with_count(*entry, static_cast<uint32_t>(count), generation);
  }
  return Entrance::kWaits;
}

}  // namespace fleet
