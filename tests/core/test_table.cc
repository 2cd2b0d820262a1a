// A table against std::map, at every SIMD level, with threads.
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "table.h"

using namespace fleet;

namespace {

Schema schema_of(size_t dim, const char* optimizer) {
  Schema schema;
  schema.dim = dim;
  schema.choose(*find_row_optimizer(optimizer));
  if (schema.optimizer->initial_state >= 0) schema.constants[schema.optimizer->initial_state] = 0.5f;
  schema.initializer = Initializer::kNormal;
  schema.init_b = 0.1f;
  schema.seed = 3;
  schema.salt = 5;
  return schema;
}

// Exact-size buffers: a read or write beyond them is seen by the address sanitizer.
std::vector<uint64_t> random_ids(std::mt19937_64& random, size_t n, uint64_t range) {
  std::vector<uint64_t> ids(n);
  for (uint64_t& id : ids) id = random() % range;
  ids.shrink_to_fit();
  return ids;
}

void sgd_equals_a_map(size_t dim) {
  Table table(schema_of(dim, "sgd"), 4);
  std::map<uint64_t, std::vector<float>> map;
  std::mt19937_64 random(dim);
  for (int call = 0; call < 30; ++call) {
    const std::vector<uint64_t> ids = random_ids(random, random() % 300, 400);
    std::vector<float> grads(ids.size() * dim);
    for (float& g : grads) g = static_cast<float>(random() % 100);
    std::vector<float> seen(ids.size() * dim, NAN);
    CHECK(table.pull(ids.data(), ids.size(), seen.data(), false, std::vector<uint64_t>(1).data()).ok());
    for (size_t i = 0; i < ids.size(); ++i) {
      map.emplace(ids[i], std::vector<float>(&seen[i * dim], &seen[i * dim] + dim));
      CHECK(std::equal(map[ids[i]].begin(), map[ids[i]].end(), &seen[i * dim]));
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      for (size_t j = 0; j < dim; ++j) map[ids[i]][j] -= 0.5f * grads[i * dim + j];
    }
    size_t nonfinite = 9;
    CHECK(table.push(ids.data(), ids.size(), grads.data(), 0.5f, call + 1, &nonfinite).ok() && nonfinite == 0);
    CHECK(table.size() == map.size());
  }
}

void every_optimizer_at_every_level(size_t dim) {
  size_t num_optimizers = 0;
  const RowOptimizer* optimizers = row_optimizers(&num_optimizers);
  for (size_t number = 0; number < 2 * num_optimizers; ++number) {
    Schema schema = schema_of(dim, optimizers[number / 2].name);
    if (number % 2 == 1) schema.l2_decay = 0.01f;
    std::vector<float> first;
    for (Simd level : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
      if (kernels_of(level) == nullptr) continue;
      choose_kernels(*kernels_of(level));
      Table table(schema, 16);
      std::mt19937_64 random(1);
      size_t nonfinite = 0;
      for (int step = 1; step < 4; ++step) {
        const std::vector<uint64_t> ids = random_ids(random, 257, ~uint64_t{0});
        std::vector<float> grads(257 * dim);
        for (float& g : grads) g = static_cast<float>(random() % 1000) * 0.01f - 5;
        CHECK(table.push(ids.data(), 257, grads.data(), 0.1f, step, &nonfinite).ok());
      }
      std::vector<uint64_t> keys;
      CHECK(table.keys(&keys).ok() && keys.size() == table.size());
      std::vector<char> found(keys.size());
      std::vector<float> weights(keys.size() * dim), state(keys.size() * table.schema().state_dim());
      CHECK(table.read(keys.data(), keys.size(), reinterpret_cast<bool*>(found.data()), weights.data(), state.data()).ok());
      weights.insert(weights.end(), state.begin(), state.end());
      for (const float value : weights) CHECK(std::isfinite(value));
      if (first.empty()) first = weights;
      CHECK(first == weights);
    }
  }
  choose_kernels(*kernels_of(best_simd()));
}

// The epoch of every row of a table, by key.
std::map<uint64_t, uint16_t> epochs(Table& table) {
  std::map<uint64_t, uint16_t> all;
  for (uint32_t s = 0; s < table.num_stripes(); ++s) {
    const Rows& rows = table.stripe(s).rows;
    for (uint64_t i = 0; i < rows.size(); ++i) {
      const char* row = rows.at(rows.ref_of(i));
      all[Stripe::key_of(row)] = Stripe::epoch_of(row);
    }
  }
  return all;
}

void rows_say_when_they_changed(bool scored) {
  Schema schema = schema_of(3, "adagrad");
  schema.life.scored = scored;  // 4 bytes of life
  Table table(schema, 2);
  const auto set_epoch = [&table](uint16_t epoch) {
    for (uint32_t s = 0; s < table.num_stripes(); ++s) table.stripe(s).epoch = epoch;
  };
  std::vector<float> values(4 * 3, 0.5f);
  uint64_t created = 0;
  size_t nonfinite = 0;
  const std::vector<uint64_t> ids = {1, 2, 3, 4};
  CHECK(table.push(ids.data(), 1, values.data(), 0.1f, 1, &nonfinite).ok());  // a fresh table's epoch is 1
  set_epoch(7);
  CHECK(table.pull(ids.data(), 3, values.data(), true, &created).ok() && created == 2);  // makes 2 and 3, reads 1
  set_epoch(8);
  CHECK(table.assign(&ids[3], 1, values.data(), nullptr).ok());
  CHECK((epochs(table) == std::map<uint64_t, uint16_t>{{1, 1}, {2, 7}, {3, 7}, {4, 8}}));
  set_epoch(65535);
  CHECK(table.push(&ids[1], 1, values.data(), 0.1f, 2, &nonfinite).ok());
  CHECK(table.pull(ids.data(), 4, values.data(), false, &created).ok());  // reading changes nothing
  CHECK((epochs(table) == std::map<uint64_t, uint16_t>{{1, 1}, {2, 65535}, {3, 7}, {4, 8}}));
  const char* row = table.stripe(0).rows.at(0);
  for (size_t i = Schema::kSeenOffset; i < schema.weights_offset(); ++i) CHECK(row[i] == 0);
}

void nonfinite_gradients_change_nothing() {
  Table table(schema_of(3, "adam"), 1);
  const uint64_t ids[2] = {1, 2};
  const float grads[6] = {1, 2, 3, 4, std::numeric_limits<float>::infinity(), NAN};
  size_t nonfinite = 0;
  CHECK(table.push(ids, 2, grads, 0.1f, 1, &nonfinite).ok() && nonfinite == 2 && table.size() == 0);
}

void threads_share_a_table() {
  Table table(schema_of(5, "adagrad"), 2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&table, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      std::vector<float> values(500 * 5, 0.25f);
      for (int call = 0; call < 40; ++call) {
        const std::vector<uint64_t> ids = random_ids(random, 500, 3000);
        size_t nonfinite = 0;
        uint64_t created = 0;
        CHECK(table.push(ids.data(), 500, values.data(), 1e-3f, 1, &nonfinite).ok() && nonfinite == 0);
        CHECK(table.pull(ids.data(), 500, values.data(), true, &created).ok() && created == 0);
        std::fill(values.begin(), values.end(), 0.25f);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(table.size() <= 3000 && table.size() > 2900);
}

}  // namespace

int main() {
  for (size_t dim : {1, 8, 16, 19}) sgd_equals_a_map(dim);
  for (size_t dim : {1, 3, 8, 16, 17, 32, 50}) every_optimizer_at_every_level(dim);
  for (bool scored : {false, true}) rows_say_when_they_changed(scored);
  nonfinite_gradients_change_nothing();
  threads_share_a_table();
  return 0;
}
