#include "copies.h"

#include <algorithm>
#include <new>

#include "kernels.h"

namespace fleet {

namespace {

// Behind a group of ids of one stripe: its places become the caller's.
void shift(std::vector<uint32_t>& stale, size_t begin, size_t end, size_t offset) {
  for (size_t i = begin; i < end; ++i) stale[i] += static_cast<uint32_t>(offset);
}

void end_at(std::vector<uint32_t>& stale, size_t count) {
  stale.resize(count);
  if (!std::is_sorted(stale.begin(), stale.end())) std::sort(stale.begin(), stale.end());  // ids that did not come grouped
}

}  // namespace

Status Copies::pull_fresh(const uint64_t* ids, size_t n, float* out, std::vector<uint32_t>* stale) noexcept try {
  stale->resize(n);
  size_t count = 0;
  const Status status = each_stripe(ids, n, [&](const Run& run, size_t offset) {
    const size_t before = count;
    count += kernels().pull_fresh(run, out + offset * schema().dim, stale->data() + before);
    shift(*stale, before, count, offset);
    return true;
  });
  end_at(*stale, count);
  return status;
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a list of rows");
}

Status Copies::push_fresh(const uint64_t* ids, size_t n, const float* grads, float lr, int64_t step, size_t* num_nonfinite,
                          std::vector<uint32_t>* stale) noexcept try {
  stale->clear();
  *num_nonfinite = kernels().count_nonfinite(grads, n * schema().dim);
  if (*num_nonfinite > 0) return {};
  const Rate rate = rate_of(lr, step);
  stale->resize(n);
  size_t count = 0;
  const Status status = each_stripe(ids, n, [&](const Run& run, size_t offset) {
    const size_t before = count;
    count += kernels().push_fresh(run, grads + offset * schema().dim, rate, stale->data() + before);
    shift(*stale, before, count, offset);
    return true;
  });
  end_at(*stale, count);
  return status;
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a list of rows");
}

Status Copies::take(const uint64_t* ids, size_t n, float* weights, bool owed) noexcept {
  return each_stripe(ids, n, [&](const Run& run, size_t offset) { return kernels().take(run, weights + offset * schema().dim, owed); });
}

Status Copies::moves(const uint64_t* ids, size_t n, float parts, bool follow, float* out) noexcept {
  return each_stripe(ids, n, [&](const Run& run, size_t offset) {
    kernels().moves(run, parts, follow, out + offset * schema().dim);
    return true;
  });
}

Status Copies::settle(const uint64_t* ids, size_t n, const float* sent) noexcept {
  return each_stripe(ids, n, [&](const Run& run, size_t offset) {
    kernels().settle(run, sent == nullptr ? nullptr : sent + offset * schema().dim);
    return true;
  });
}

void Copies::renew() noexcept {
  for (uint32_t number = 0; number < num_stripes(); ++number) {
    Stripe& mine = stripe(number);
    const std::lock_guard<std::mutex> lock(mine.mutex);
    if (++mine.epoch != 0) continue;
    for (uint64_t place = 0; place < mine.rows.num_places(); ++place) Stripe::set_epoch(mine.rows.at(mine.rows.ref_of(place)), 1);
    mine.epoch = 2;
  }
}

}  // namespace fleet
