// Batches without repeats on exact-size buffers; CRC-32 against its published check value and against joining.
#include <random>
#include <vector>

#include "batch.h"
#include "check.h"
#include "crc32.h"
#include "kernels.h"

using namespace fleet;

namespace {

void batches_come_back(size_t n, uint64_t range) {
  std::mt19937_64 random(n);
  Unique unique(3);
  std::vector<uint16_t> servers(kNumShards);
  for (size_t i = 0; i < kNumShards; ++i) servers[i] = static_cast<uint16_t>(i % 3);
  for (int again = 0; again < 3; ++again) {
    std::vector<uint64_t> ids(n);
    for (uint64_t& id : ids) id = random() % range;
    std::vector<uint32_t> inverse(n);
    CHECK(unique.run(ids.data(), n, servers.data(), 3, inverse.data()).ok());
    for (size_t i = 0; i < n; ++i) CHECK(unique.keys()[inverse[i]] == ids[i]);
    const size_t m = unique.keys().size();
    CHECK(static_cast<size_t>(unique.counts()[0] + unique.counts()[1] + unique.counts()[2]) == m);
    for (size_t dim : {1, 8, 13, 16, 32}) {
      std::vector<float> rows(m * dim), out(n * dim), sums(m * dim);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
      for (Simd level : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
        const Kernels* k = kernels_of(level);
        if (k == nullptr) continue;
        k->expand(rows.data(), dim, inverse.data(), n, out.data());
        for (size_t i = 0; i < n; ++i) CHECK(out[i * dim + dim - 1] == rows[inverse[i] * dim + dim - 1]);
        k->add_rows(out.data(), dim, inverse.data(), n, sums.data());
        CHECK(k->scale(sums.data(), sums.size(), 1.0f) == 0);
      }
    }
  }
  servers[77] = 3;
  uint32_t nothing = 0;
  CHECK(unique.run(nullptr, 0, servers.data(), 3, &nothing).kind == Status::kInvalid);
}

void crc32_is_zlibs() {
  CHECK(crc32(0, "123456789", 9) == 0xcbf43926u);
  std::mt19937_64 random(1);
  std::vector<char> data(1000);
  for (char& byte : data) byte = static_cast<char>(random());
  for (size_t cut = 0; cut <= data.size(); cut += 7) {
    const uint32_t whole = crc32(0, data.data(), data.size());
    const uint32_t first = crc32(0, data.data(), cut);
    CHECK(crc32(first, data.data() + cut, data.size() - cut) == whole);
  }
}

}  // namespace

int main() {
  batches_come_back(0, 1);
  batches_come_back(1, 1);
  batches_come_back(17, 5);
  batches_come_back(5000, 700);
  batches_come_back(3000, ~uint64_t{0});
  crc32_is_zlibs();
  return 0;
}
