// The rival of benchmarks/table.py: what one writes without a parameter server. boost::unordered_flat_map from key to row
// number, rows of 16 floats and Adagrad's sums in dense arrays with huge pages. Reads commands from standard input, so that
// table.py can take turns with it:   fill N | pull CALLS | push CALLS | rows COUNT   -> one line of output each.
//
// Ids come from the same generator as table.py's: splitmix64 of a counter.
#include <sys/mman.h>

#include <boost/unordered/unordered_flat_map.hpp>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr size_t kDim = 16;
constexpr size_t kIds = 16384;

uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

float* huge_pages(size_t floats) {
  const size_t bytes = (floats * sizeof(float) + (size_t{2} << 20)) & ~((size_t{2} << 20) - 1);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 0, bytes);
  return static_cast<float*>(memory);
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Rival {
  boost::unordered_flat_map<uint64_t, uint32_t> map;
  float* weights = nullptr;
  float* sums = nullptr;
  uint64_t size = 0;
  uint64_t next_call = 0;
  std::vector<uint64_t> ids = std::vector<uint64_t>(kIds);
  std::vector<float> buffer = std::vector<float>(kIds * kDim);

  void fill(uint64_t n) {
    size = n;
    weights = huge_pages(n * kDim);
    sums = huge_pages(n);
    if (weights == nullptr || sums == nullptr) {
      std::fprintf(stderr, "table_rival: no memory for %llu rows\n", static_cast<unsigned long long>(n));
      std::exit(1);
    }
    map.reserve(n);
    for (uint64_t i = 0; i < n; ++i) {
      map.emplace(splitmix64(i), static_cast<uint32_t>(i));
      for (size_t j = 0; j < kDim; ++j) weights[i * kDim + j] = static_cast<float>(i % 1000) + static_cast<float>(j);
    }
  }

  // The ids of call `call`: random rows that exist. Made outside the clock.
  void draw(uint64_t call) {
    for (size_t i = 0; i < kIds; ++i) ids[i] = splitmix64(splitmix64(~(call * kIds + i)) % size);
  }

  double pull(uint64_t calls) {
    double seconds = 0;
    for (uint64_t c = 0; c < calls; ++c) {
      draw(next_call++);
      const double begin = now();
      for (size_t i = 0; i < kIds; ++i) std::memcpy(&buffer[i * kDim], &weights[map.find(ids[i])->second * kDim], kDim * sizeof(float));
      seconds += now() - begin;
    }
    return seconds;
  }

  double push(uint64_t calls) {
    double seconds = 0;
    for (uint64_t c = 0; c < calls; ++c) {
      draw(next_call++);
      for (float& g : buffer) g = 0.01f;
      const double begin = now();
      for (size_t i = 0; i < kIds; ++i) {
        const uint32_t row = map.find(ids[i])->second;
        const float* g = &buffer[i * kDim];
        float* w = &weights[size_t{row} * kDim];
        float part[4] = {};  // partial sums, so that the compiler may use vectors
        for (size_t j = 0; j < kDim; ++j) part[j % 4] += g[j] * g[j];
        sums[row] += (part[0] + part[1] + part[2] + part[3]) / kDim;
        const float factor = 0.01f / (std::sqrt(sums[row]) + 1e-6f);
        for (size_t j = 0; j < kDim; ++j) w[j] -= factor * g[j];
      }
      seconds += now() - begin;
    }
    return seconds;
  }
};

}  // namespace

int main() {
  Rival rival;
  char command[16];
  unsigned long long count = 0;
  while (std::scanf("%15s %llu", command, &count) == 2) {
    if (std::strcmp(command, "fill") == 0) {
      rival.fill(count);
      std::printf("%zu\n", rival.map.size());
    } else if (std::strcmp(command, "pull") == 0) {
      std::printf("%.9f\n", rival.pull(count));
    } else if (std::strcmp(command, "push") == 0) {
      std::printf("%.9f\n", rival.push(count));
    } else if (std::strcmp(command, "rows") == 0) {  // the answer: first float of the first rows
      for (unsigned long long i = 0; i < count; ++i) std::printf("%.9g ", rival.weights[rival.map.find(splitmix64(i))->second * kDim]);
      std::printf("\n");
    }
    std::fflush(stdout);
  }
  return 0;
}
