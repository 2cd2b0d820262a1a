// The keys of one stripe that lost their rows, by the epoch in which they did: what a delta says was removed. 8 bytes each, and never
// many beside the rows: where there are more, a delta would be heavier than all rows, and the keys are let go.
// Not thread-safe: the stripe's lock guards it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace fleet {

class EvictedKeys {
 public:
  static uint64_t most(uint64_t num_places) { return num_places / 2 + 4096; }  // 4 bytes a row at most

  // Keys that go in epochs above `epoch` are noted from now on; if they are already, nothing changes.
  void begin(uint16_t epoch) noexcept {
    if (known_above_ == kNotNoted) known_above_ = epoch;
  }
  // What went is not known any more, nor is what will go.
  void stop() noexcept {
    let_go(kNotNoted);
  }

  void note(uint64_t key, uint16_t epoch, uint64_t most) noexcept try {
    if (epoch <= known_above_) return;
    if (keys_.size() >= most) return let_go(epoch);
    if (begins_.empty() || begins_.back().epoch != epoch) begins_.push_back({epoch, keys_.size()});
    keys_.push_back(key);
  } catch (const std::bad_alloc&) {
    let_go(epoch);
  }

  // Whether every key that went in an epoch above `epoch` is here.
  bool knows_above(uint16_t epoch) const { return epoch >= known_above_; }

  // Appends the keys of epochs in (after, until].
  void copy(uint16_t after, uint16_t until, std::vector<uint64_t>* to) const {
    to->insert(to->end(), keys_.begin() + place_above(after), keys_.begin() + place_above(until));
  }

  // Nobody will ask for keys of epochs up to `epoch`.
  void forget(uint16_t epoch) noexcept {
    if (known_above_ == kNotNoted || epoch <= known_above_) return;
    const std::ptrdiff_t gone = place_above(epoch);
    keys_.erase(keys_.begin(), keys_.begin() + gone);
    if (keys_.capacity() > 2 * keys_.size() + 4096) shrink();
    size_t kept = 0;
    for (const Begin& begin : begins_) {
      if (begin.epoch > epoch) begins_[kept++] = {begin.epoch, begin.at - static_cast<size_t>(gone)};
    }
    begins_.resize(kept);
    known_above_ = epoch;
  }

  size_t memory_bytes() const { return keys_.capacity() * sizeof(uint64_t); }

 private:
  static constexpr uint16_t kNotNoted = 65535;  // above any epoch that a cut ends
  struct Begin {
    uint16_t epoch;
    size_t at;
  };

  // Where the keys of epochs above `epoch` begin.
  std::ptrdiff_t place_above(uint16_t epoch) const {
    for (const Begin& begin : begins_) {
      if (begin.epoch > epoch) return static_cast<std::ptrdiff_t>(begin.at);
    }
    return static_cast<std::ptrdiff_t>(keys_.size());
  }
  void let_go(uint16_t epoch) noexcept {
    std::vector<uint64_t>().swap(keys_);
    begins_.clear();
    known_above_ = epoch;
  }
  void shrink() noexcept try { keys_.shrink_to_fit(); } catch (const std::bad_alloc&) {
  }

  std::vector<uint64_t> keys_;  // in the order in which they went
  std::vector<Begin> begins_;
  uint16_t known_above_ = kNotNoted;
};

}  // namespace fleet
