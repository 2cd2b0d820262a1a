#include "waiting_copy.h"

#include <mutex>
#include <unordered_map>

namespace fleet {

void copy_waiting(Stripe& stripe, uint32_t number, uint32_t shard_low, uint32_t shard_high, std::vector<WaitingId>* to) {
  std::vector<uint64_t> entries, changed;
  for (bool copied = false; !copied;) {
    const size_t room = entries.size();  // touched without the lock: first touch is what costs
    uint64_t wanted = 0;
    {
      const std::lock_guard<std::mutex> lock(stripe.mutex);
      if (!stripe.cut.waiting) return;
      wanted = stripe.index.num_waiting();
      if (wanted <= room) {
        size_t count = 0;
        for (uint64_t place = 0; count < wanted; ++place) {
          const uint64_t entry = *stripe.index.place_at(place);
          if ((entry & Index::kWaiting) != 0) entries[count++] = entry;
        }
        entries.resize(count);
        stripe.cut.waiting = false;
        changed.swap(stripe.cut.changed);
        copied = true;
      }
    }
    if (!copied) entries.resize(wanted + wanted / 8 + 64);
  }
  constexpr uint64_t kName = Index::kWaitingMask & ~Index::kWaiting;  // which id
  std::unordered_map<uint64_t, uint64_t> before;
  for (const uint64_t entry : changed) before.emplace(entry & kName, entry);  // the first one counts
  const auto add = [&](uint64_t entry) {
    const uint64_t hash = Index::hash_of_waiting(entry, number);
    const uint32_t shard = shard_of_hash(hash);
    if (shard < shard_low || shard >= shard_high) return;
    to->push_back({hash, static_cast<uint16_t>(Index::count_of(entry)), static_cast<uint8_t>(Index::generation_of(entry))});
  };
  for (const uint64_t entry : entries) {
    if (before.empty() || before.count(entry & kName) == 0) add(entry);
  }
  for (const auto& [name, entry] : before) {
    if ((entry & Index::kWaiting) != 0) add(entry);
  }
}

}  // namespace fleet
