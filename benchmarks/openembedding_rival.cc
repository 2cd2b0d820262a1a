// OpenEmbedding 0.1.2's core as a rival of benchmarks/table.py and memory.py: its own C interface (entry/c_api.h), the server in
// this process, which still goes through its RPC. Reads commands from standard input, as table_rival.cc does:
//   fill N | pull CALLS | push CALLS | rows COUNT   -> one line of output each, on the descriptor that argv[1] names (its own
// log goes to standard output).
//
// Keys and calls are parts/table_rivals.py's: key(i) = splitmix64(i) >> 1, a call walks over distinct rows.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "c_api.h"

namespace {

constexpr size_t kDim = 16;
constexpr size_t kIds = 16384;
constexpr uint64_t kStride = 2654435761ULL;

uint64_t key(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return (x ^ (x >> 31)) >> 1;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "openembedding_rival: %s: %s\n", what, exb_last_error());
  std::_Exit(1);
}

struct Rival {
  exb_storage* storage = nullptr;
  exb_variable* variable = nullptr;
  uint64_t size = 0;
  uint64_t next_call = 0;
  int64_t version = 0;
  std::vector<uint64_t> ids = std::vector<uint64_t>(kIds);
  std::vector<float> rows = std::vector<float>(kIds * kDim);

  void pull(size_t n) {
    exb_pull_waiter* waiter = exb_pull_weights(variable, ids.data(), n, version);
    if (waiter == nullptr || !exb_pull_wait(waiter, ids.data(), n, rows.data())) fail("pull");
  }

  void push(size_t n, const float* gradients) {
    if (!exb_wait(exb_push_gradients(variable, ids.data(), n, gradients))) fail("push");
    if (!exb_wait(exb_update_weights(storage))) fail("update");
    ++version;
  }

  void draw(uint64_t call) {
    for (size_t i = 0; i < kIds; ++i) ids[i] = key((call * kIds + i) * kStride % size);
  }

  double calls(uint64_t count, bool pushes) {
    const std::vector<float> gradients(kIds * kDim, 0.01f);
    double seconds = 0;
    for (uint64_t c = 0; c < count; ++c) {
      draw(next_call++);
      const double begin = now();
      if (pushes) push(kIds, gradients.data());
      else pull(kIds);
      seconds += now() - begin;
    }
    return seconds;
  }
};

const char* const kAdagrad[][2] = {{"learning_rate", "0.01"}, {"initial_accumulator_value", "0.1"}, {"epsilon", "1e-7"}};

}  // namespace

int main(int, char** argv) {
  std::FILE* out = fdopen(std::atoi(argv[1]), "w");
  exb_string endpoint;
  exb_master* master = exb_master_start();
  exb_master_endpoint(master, &endpoint);
  exb_connection* connection = exb_connect("", endpoint.data);
  if (connection == nullptr) fail("connect");
  exb_context* context = exb_context_initialize(connection, 1);
  if (context == nullptr) fail("initialize");
  Rival rival;
  rival.storage = exb_create_storage(context);
  rival.variable = exb_create_variable(rival.storage, static_cast<uint64_t>(-1), kDim);  // a hash table
  exb_initializer* zero = exb_create_initializer("constant");
  exb_set_initializer_property(zero, "value", "0");
  exb_set_initializer(rival.variable, zero);
  exb_optimizer* adagrad = exb_create_optimizer("adagrad");
  for (const auto& property : kAdagrad) exb_set_optimizer_property(adagrad, property[0], property[1]);
  exb_set_optimizer(rival.variable, adagrad);
  exb_barrier(context, "made");

  char verb[16];
  unsigned long long count = 0;
  while (std::scanf("%15s %llu", verb, &count) == 2) {
    if (std::strcmp(verb, "fill") == 0) {
      rival.size = count;
      const std::vector<float> zeros(kIds * kDim, 0.0f);
      for (uint64_t at = 0; at < count; at += kIds) {  // a gradient of zero makes a row and leaves it at zero
        const size_t n = count - at < kIds ? count - at : kIds;
        for (size_t i = 0; i < n; ++i) rival.ids[i] = key(at + i);
        rival.pull(n);
        rival.push(n, zeros.data());
      }
      std::fprintf(out, "%llu\n", count);
    } else if (std::strcmp(verb, "rows") == 0) {
      for (uint64_t at = 0; at < count; at += kIds) {
        const size_t n = count - at < kIds ? count - at : kIds;
        for (size_t i = 0; i < n; ++i) rival.ids[i] = key(at + i);
        rival.pull(n);
        for (size_t i = 0; i < n; ++i) std::fprintf(out, "%.9g ", static_cast<double>(rival.rows[i * kDim]));
      }
      std::fprintf(out, "\n");
    } else {
      std::fprintf(out, "%.9f\n", rival.calls(count, std::strcmp(verb, "push") == 0));
    }
    std::fflush(out);
  }
  std::_Exit(0);  // its threads need a minute to end
}
