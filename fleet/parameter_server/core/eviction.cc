#include "eviction.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fleet {

namespace {

float score_in(const char* row) {
  float score;
  std::memcpy(&score, row + Schema::kLifeOffset, sizeof score);
  return score;
}

constexpr float kOfThisTick = 1e30f;  // above any score: such rows go last

void set_score(char* row, float score) { std::memcpy(row + Schema::kLifeOffset, &score, sizeof score); }

}  // namespace

Eviction::Eviction(const Schema& schema) : schema_(schema), max_age_(schema.life.max_age()) {
  const Life& life = schema.life;
  const double per_tick = std::pow(life.decay, static_cast<double>(life.unit()) / static_cast<double>(life.decay_steps));
  const size_t count = life.scored && life.decay < 1 ? max_age_ + 2 : 1;
  for (size_t age = 0; age < count; ++age) powers_.push_back(static_cast<float>(std::pow(per_tick, static_cast<double>(age))));
}

float Eviction::score_now(const char* row, uint16_t age) const noexcept {
  return score_in(row) * powers_[std::min<size_t>(age, powers_.size() - 1)];
}

bool Eviction::expired(const char* row, uint64_t step) const noexcept {
  if (!schema_.life.expires()) return false;
  const uint16_t age = age_of(row, step);
  return age > max_age_ || (schema_.life.delete_below > 0 && score_now(row, age) < schema_.life.delete_below);
}

void Eviction::touch(Stripe& stripe, char* row, uint64_t step, float score, bool fresh) const noexcept {
  stripe.before_change(schema_, row);
  const auto tick = static_cast<uint16_t>(schema_.life.tick_of(step));
  const uint16_t age = fresh ? 0 : age_of(row, step);
  if (schema_.life.scored) set_score(row, fresh ? score : score_now(row, age) + score);
  if (fresh || age > 0) Stripe::set_seen(row, tick);
}

void Eviction::evict(Stripe& stripe, char* row) const noexcept {
  stripe.before_change(schema_, row);
  stripe.note_evicted(Stripe::key_of(row));
  stripe.erase(row, schema_.salt);
}

uint64_t Eviction::sweep_rows(Stripe& stripe, uint64_t* cursor, uint64_t most, uint64_t step, float below,
                              bool jump) const noexcept {
  const Life& life = schema_.life;
  const uint64_t end = std::min(stripe.rows.num_places(), *cursor + std::min(most, kSliceRows));
  const auto oldest = static_cast<uint16_t>(life.tick_of(step) - max_age_);
  uint64_t evicted = 0;
  for (; *cursor < end; ++*cursor) {
    const uint64_t ref = stripe.rows.ref_of(*cursor);
    if (stripe.rows.is_free(ref)) continue;
    char* row = stripe.rows.at(ref);
    const uint16_t age = age_of(row, step);
    if ((life.expires() && (jump || expired(row, step))) || (life.scored && score_now(row, age) < below)) {
      evict(stripe, row);
      ++evicted;
    } else if (jump || age > max_age_) {
      Stripe::set_seen(row, oldest);  // where no age expires: it stops at the largest that can be told from a small one
    }
  }
  return evicted;
}

void Eviction::sweep_waiting(Stripe& stripe, uint64_t* cursor, uint64_t most, uint64_t step, bool jump) const noexcept {
  const uint32_t generation = schema_.life.generation_of(step);
  const uint64_t end = std::min(stripe.index.num_places(), *cursor + std::min(most, kSliceRows));
  for (; *cursor < end; ++*cursor) {
    // Erasing may move another entry here, so the place is looked at again.
    for (;;) {
      uint64_t* entry = stripe.index.place_at(*cursor);
      if ((*entry & Index::kWaiting) == 0 || !(jump || Index::is_stale(*entry, generation))) break;
      stripe.before_waiting_changes(*entry);
      stripe.index.erase(entry, stripe.rows, schema_.salt);
    }
  }
}

uint64_t Eviction::evict_worst(Stripe& stripe, uint64_t count, uint64_t step) const noexcept {
  uint64_t evicted = 0;
  for (count = std::min(count, kSliceRows / kSamples); evicted < count && stripe.rows.size() > 0; ++evicted) {
    char* worst = nullptr;
    float least = 0;
    for (uint64_t i = 0; i < kSamples; ++i) {
      stripe.random = mix64(stripe.random + 0x9e3779b97f4a7c15ULL);
      uint64_t place = stripe.random % stripe.rows.num_places();
      while (stripe.rows.is_free(stripe.rows.ref_of(place))) place = (place + 1) % stripe.rows.num_places();
      char* row = stripe.rows.at(stripe.rows.ref_of(place));
      const uint16_t age = age_of(row, step);
      float worth = schema_.life.keep_frequent ? score_now(row, age) : -static_cast<float>(age);
      if (age == 0) worth += kOfThisTick;
      if (worst == nullptr || worth < least) {
        worst = row;
        least = worth;
      }
    }
    evict(stripe, worst);
  }
  return evicted;
}

}  // namespace fleet
