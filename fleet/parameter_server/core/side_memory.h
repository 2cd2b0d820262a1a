// Memory for rows that change while a snapshot is being written: they are copied first, and the copies must not grow without bound.
//
// One bound for the process. A push that finds it reached waits for the writer, without holding a lock, so pulls go on; if the
// disk takes nothing for kPatience, the snapshot is given up and the push goes on: training comes first.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <vector>

namespace fleet {

class SideMemory {
 public:
  static constexpr size_t kChunkBytes = size_t{256} << 10;  // taken under a stripe's lock: 20 us of page faults, then reused
  static constexpr size_t kDefaultBound = size_t{256} << 20;
  static constexpr double kPatienceS = 5.0;  // less than any trainer waits for an answer

  static SideMemory& of_process() noexcept;

  SideMemory(const SideMemory&) = delete;
  SideMemory& operator=(const SideMemory&) = delete;

  // A chunk of at least `bytes`, or nullptr: no memory, or given up.
  char* take(size_t bytes) noexcept;
  void give(char* chunk, size_t bytes) noexcept;

  bool full() const noexcept { return used_.load(std::memory_order_relaxed) >= bound_.load(std::memory_order_relaxed) && !given_up(); }
  bool above_quarter() const noexcept { return used_.load(std::memory_order_relaxed) >= bound_.load(std::memory_order_relaxed) / 4; }
  bool given_up() const noexcept { return given_up_.load(std::memory_order_relaxed); }
  // Returns once there is room. Called without any lock.
  void wait_for_room() noexcept;

  // A cut begins, or ends: the last one that ends gives all memory back to the system and forgets that one was given up.
  void enter() noexcept;
  void leave() noexcept;

  void set(size_t bound, double patience_s) noexcept {
    bound_.store(bound, std::memory_order_relaxed);
    patience_s_.store(patience_s, std::memory_order_relaxed);
  }
  size_t used() const noexcept { return used_.load(std::memory_order_relaxed); }

 private:
  SideMemory() = default;
  static size_t rounded(size_t bytes) { return bytes < kChunkBytes ? kChunkBytes : bytes; }

  std::atomic<size_t> used_{0};
  std::atomic<size_t> bound_{kDefaultBound};
  std::atomic<double> patience_s_{kPatienceS};
  std::atomic<bool> given_up_{false};
  std::mutex mutex_;  // guards the two below
  std::vector<char*> spare_;  // of kChunkBytes each
  size_t num_cuts_ = 0;
  std::condition_variable room_;
};

}  // namespace fleet
