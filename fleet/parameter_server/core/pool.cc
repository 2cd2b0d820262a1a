#include "pool.h"

#include <new>
#include <string>

#include "kernels.h"

namespace fleet {

namespace {

struct Loops {
  void (*pool)(const Bags& bags, const float* rows, size_t dim, float* out);
  void (*unpool)(const Bags& bags, const float* grads, size_t dim, float* out);
  void (*weight_gradients)(const Bags& bags, const float* rows, const float* grads, size_t dim, float* out);
};

}  // namespace

}  // namespace fleet

#define FLEET_BODY "pool.inc.h"
#include "each_level.inc.h"

namespace fleet {

namespace {

// Those of the level in force.
const Loops& loops() {
  switch (kernels().level) {
#ifdef FLEET_X86
    case Simd::kAvx2: return avx2::kLoops;
    case Simd::kAvx512: return avx512::kLoops;
#endif
    default: return portable::kLoops;
  }
}

}  // namespace

Status check_bags(const int64_t* lengths, size_t num_bags, size_t num_ids) noexcept {
  uint64_t sum = 0;
  for (size_t bag = 0; bag < num_bags; ++bag) {
    if (lengths[bag] < 0) {
      return Status::invalid("length " + std::to_string(lengths[bag]) + " of bag " + std::to_string(bag) + " is negative");
    }
    sum += static_cast<uint64_t>(lengths[bag]);
    if (sum > num_ids) break;  // also before it can wrap round
  }
  if (sum == num_ids) return {};
  return Status::invalid("the lengths of " + std::to_string(num_bags) + " bags add up to " + (sum > num_ids ? "more than " : "") +
                         std::to_string(sum > num_ids ? num_ids : sum) + ", but there are " + std::to_string(num_ids) + " ids");
}

void pool(const Bags& bags, const float* rows, size_t dim, float* out) noexcept { loops().pool(bags, rows, dim, out); }

void unpool(const Bags& bags, const float* grads, size_t dim, float* out) noexcept { loops().unpool(bags, grads, dim, out); }

void weight_gradients(const Bags& bags, const float* rows, const float* grads, size_t dim, float* out) noexcept {
  loops().weight_gradients(bags, rows, grads, dim, out);
}

Status drop_padding(const uint64_t* ids, size_t n, uint64_t padding, const int64_t* lengths, size_t num_bags,
                    Kept* kept) noexcept try {
  kept->ids.resize(n);
  kept->places.resize(n);
  if (lengths == nullptr) num_bags = n;
  kept->lengths.resize(num_bags);
  size_t count = 0;
  size_t begin = 0;
  for (size_t bag = 0; bag < num_bags; ++bag) {
    const size_t before = count;
    const size_t end = begin + (lengths != nullptr ? static_cast<size_t>(lengths[bag]) : 1);
    for (size_t i = begin; i < end; ++i) {
      kept->ids[count] = ids[i];
      kept->places[count] = static_cast<int64_t>(i);
      count += ids[i] != padding;  // no branch: padding comes as it likes
    }
    kept->lengths[bag] = static_cast<int64_t>(count - before);
    begin = end;
  }
  kept->ids.resize(count);
  kept->places.resize(count);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory to leave padding out");
}

}  // namespace fleet
