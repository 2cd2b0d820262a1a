// A trainer's copies against std::map: fresh rows, what the servers do not have of them, ids in any order; exact-size buffers.
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "copies.h"
#include "kernels.h"

using namespace fleet;

namespace {

constexpr float kRate = 0.5f;

struct Copy {
  std::vector<float> now, base;
  bool fresh;
};

std::vector<uint64_t> random_ids(std::mt19937_64& random, size_t n, uint64_t range) {
  std::map<uint64_t, int> seen;
  while (seen.size() < n) seen[random() % range] = 1;
  std::vector<uint64_t> ids;
  for (const auto& [id, _] : seen) ids.push_back(id);
  for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[random() % i]);
  ids.shrink_to_fit();
  return ids;
}

std::vector<float> random_values(std::mt19937_64& random, size_t n) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random() % 64);  // sums of them are exact
  return values;
}

void equals_a_map(size_t dim, uint32_t num_stripes) {
  Schema schema;
  schema.dim = dim;
  schema.choose(*find_row_optimizer("sgd"));
  schema.has_base = true;
  Copies copies(schema, num_stripes);
  std::map<uint64_t, Copy> map;
  std::mt19937_64 random(dim + num_stripes);
  std::vector<uint32_t> stale;
  for (int call = 0; call < 200; ++call) {
    const std::vector<uint64_t> ids = random_ids(random, random() % 100, 300);
    const size_t n = ids.size();
    std::vector<float> values = random_values(random, n * dim), given = values;
    std::vector<uint32_t> wanted;
    for (size_t i = 0; i < n; ++i) {
      if (!map.count(ids[i]) || !map[ids[i]].fresh) wanted.push_back(static_cast<uint32_t>(i));
    }
    const auto each = [&](auto&& work) {
      for (size_t i = 0; i < n; ++i) {
        const auto found = map.find(ids[i]);
        for (size_t j = 0; j < dim; ++j) work(found == map.end() ? nullptr : &found->second, i * dim + j, j);
      }
    };
    switch (random() % 6) {
      case 0:
        CHECK(copies.pull_fresh(ids.data(), n, values.data(), &stale).ok() && stale == wanted);
        each([&](Copy* copy, size_t at, size_t j) { CHECK(values[at] == (copy != nullptr && copy->fresh ? copy->now[j] : given[at])); });
        break;
      case 1: {
        size_t nonfinite = 9;
        CHECK(copies.push_fresh(ids.data(), n, values.data(), kRate, 1, &nonfinite, &stale).ok() && nonfinite == 0);
        CHECK(stale == wanted);
        each([&](Copy* copy, size_t at, size_t j) {
          if (copy != nullptr && copy->fresh) copy->now[j] -= kRate * given[at];
        });
        break;
      }
      case 2: {
        const bool owed = random() % 2 == 0;
        for (const uint64_t id : ids) map.try_emplace(id, Copy{std::vector<float>(dim), std::vector<float>(dim), false});
        CHECK(copies.take(ids.data(), n, values.data(), owed).ok());
        each([&](Copy* copy, size_t at, size_t j) {
          copy->now[j] = given[at] + (owed ? copy->now[j] - copy->base[j] : 0.0f);
          copy->base[j] = given[at];
          copy->fresh = true;
          CHECK(values[at] == copy->now[j]);
        });
        break;
      }
      case 3: {
        const bool follow = random() % 2 == 0;
        CHECK(copies.moves(ids.data(), n, 2.0f, follow, values.data()).ok());
        each([&](Copy* copy, size_t at, size_t j) {
          CHECK(values[at] == (copy == nullptr ? 0.0f : -((copy->now[j] - copy->base[j]) / 2.0f)));
          if (copy != nullptr && follow) copy->base[j] -= values[at];
        });
        break;
      }
      case 4: {
        const bool all = random() % 2 == 0;
        CHECK(copies.settle(ids.data(), n, all ? nullptr : values.data()).ok());
        each([&](Copy* copy, size_t at, size_t j) {
          if (copy != nullptr) copy->base[j] = all ? copy->now[j] : copy->base[j] + given[at];
        });
        break;
      }
      default:
        copies.renew();
        for (auto& [id, copy] : map) copy.fresh = false;
    }
    CHECK(copies.size() == map.size());
  }
}

}  // namespace

int main() {
  for (Simd level : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
    if (kernels_of(level) == nullptr) continue;
    choose_kernels(*kernels_of(level));
    for (const size_t dim : {1, 7, 16, 300}) {
      for (const uint32_t num_stripes : {1u, 4u}) equals_a_map(dim, num_stripes);
    }
  }
  return 0;
}
