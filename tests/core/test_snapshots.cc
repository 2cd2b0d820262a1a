// Tables through files and back: whole, as deltas, cut while threads push, and damaged in FUZZ (400) ways.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "crc32.h"
#include "side_memory.h"
#include "snapshot.h"

using namespace fleet;

namespace {

constexpr size_t kDim = 7;

std::shared_ptr<Table> make_table() {
  Schema schema;
  schema.dim = kDim;
  schema.choose(*find_row_optimizer("adagrad"));
  schema.initializer = Initializer::kNormal;
  schema.init_b = 0.1f;
  schema.seed = 3;
  schema.salt = 5;
  return std::make_shared<Table>(schema, 4);
}

void push(Table& table, uint64_t first, size_t count, float value) {
  std::vector<uint64_t> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = (first + i) * 0x9e3779b97f4a7c15ULL;
  const std::vector<float> grads(count * kDim, value);
  size_t nonfinite = 0;
  CHECK(table.push(ids.data(), count, grads.data(), 0.1f, 1, &nonfinite).ok() && nonfinite == 0);
}

std::vector<float> contents(Table& table, uint64_t count) {
  std::vector<uint64_t> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = i * 0x9e3779b97f4a7c15ULL;
  std::vector<float> all(count * kDim * 2);
  const std::unique_ptr<bool[]> found(new bool[count]);
  CHECK(table.read(ids.data(), count, found.get(), all.data(), all.data() + count * kDim).ok());
  return all;
}

std::vector<SavedFile> written(Cut& cut, const std::string& prefix) {
  std::vector<std::vector<SavedFile>> saved;
  CHECK(cut.write({prefix}, 0, kNumShards, size_t{1} << 20, &saved).ok());
  return saved[0];
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void cuts_while_threads_push(const std::string& prefix) {
  const std::shared_ptr<Table> table = make_table();
  push(*table, 0, 20000, 0.5f);
  const std::vector<float> before = contents(*table, 20000);
  SideMemory::of_process().set(size_t{512} << 10, 5);
  std::unique_ptr<Cut> cut;
  CHECK(Cut::begin({table}, {0}, &cut).ok());
  std::unique_ptr<Cut> second;
  CHECK(Cut::begin({table}, {0}, &second).kind == Status::kInvalid && second == nullptr);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&table, t] {
      for (uint64_t i = 0; i < 20; ++i) push(*table, (t * 7 + i) % 20 * 1100, 1100, 1.0f);
    });
  }
  const std::vector<SavedFile> full = written(*cut, prefix + "-full");
  for (std::thread& thread : threads) thread.join();
  const uint16_t until = cut->until()[0];
  cut.reset();
  CHECK(Cut::begin({table}, {until}, &cut).ok());
  const std::vector<SavedFile> delta = written(*cut, prefix + "-delta");
  cut.reset();
  CHECK(SideMemory::of_process().used() == 0);

  const std::vector<char> keep(kNumShards, 1);
  uint64_t rows = 0;
  const std::shared_ptr<Table> old = make_table();
  Load load_old(old, reinterpret_cast<const bool*>(keep.data()), true);
  for (const SavedFile& file : full) CHECK(load_old.rows(file.path, {file.checksums}, &rows).ok());
  CHECK(old->size() == 20000 && contents(*old, 20000) == before);
  const std::shared_ptr<Table> now = make_table();
  Load load_now(now, reinterpret_cast<const bool*>(keep.data()), true);
  for (const SavedFile& file : delta) CHECK(load_now.rows(file.path, {file.checksums}, &rows).ok());
  for (const SavedFile& file : full) CHECK(load_now.rows(file.path, {file.checksums}, &rows).ok());
  CHECK(now->size() == table->size() && contents(*now, 22000) == contents(*table, 22000));
  for (const std::vector<SavedFile>* files : {&full, &delta}) {
    for (const SavedFile& file : *files) ::unlink(file.path.c_str());
  }
}

// A damaged file is refused whole, also if whoever damaged it made the checksums fit.
void damaged_files(const std::string& prefix, size_t rounds) {
  const std::shared_ptr<Table> table = make_table();
  push(*table, 0, 300, 0.5f);
  std::unique_ptr<Cut> cut;
  CHECK(Cut::begin({table}, {0}, &cut).ok());
  const SavedFile saved = written(*cut, prefix)[0];
  cut.reset();
  const std::string whole = bytes_of(saved.path);
  CHECK(whole.size() == saved.bytes);
  const std::vector<char> keep(kNumShards, 1);
  std::mt19937_64 random(9);
  for (size_t i = 0; i < rounds; ++i) {
    std::string bad = whole;
    const size_t flips = 1 + random() % 3;
    switch (i % 4) {
      case 0: bad.resize(random() % whole.size()); break;
      case 1: bad.insert(random() % whole.size(), std::string(1 + random() % 70, static_cast<char>(random()))); break;
      default:
        for (size_t f = 0; f < flips; ++f) {
          bad[i % 2 == 0 ? random() % 600 : random() % whole.size()] ^= static_cast<char>(1 + random() % 255);
        }
    }
    std::ofstream(saved.path, std::ios::binary) << bad;
    std::map<std::string, uint32_t> checksums = saved.checksums;
    if (i % 8 >= 4) {  // checksums of wherever the old header says that the tensors lie
      size_t at = whole.size() - 300 * (8 + 8 * kDim);
      for (const auto& [name, bytes] : {std::pair<const char*, size_t>{"keys", 2400}, {"weights", 1200 * kDim}, {"state", 1200 * kDim}}) {
        checksums[name] = at + bytes <= bad.size() ? crc32(0, bad.data() + at, bytes) : 0;
        at += bytes;
      }
    }
    const std::shared_ptr<Table> empty = make_table();
    uint64_t rows = 0;
    const bool as_rows = random() % 8 != 0;
    Load load(empty, reinterpret_cast<const bool*>(keep.data()), random() % 2 == 0);
    const Status status = as_rows ? load.rows(saved.path, {checksums}, &rows) : load.removed(saved.path, {checksums});
    CHECK(status.ok() || (status.kind == Status::kDamaged && empty->size() == 0 && !status.text.empty()));
  }
  ::unlink(saved.path.c_str());
}

}  // namespace

int main(int, char** arguments) {
  const std::string prefix = std::string(arguments[0]) + ".snapshot";
  const char* rounds = std::getenv("FUZZ");
  cuts_while_threads_push(prefix);
  damaged_files(prefix, rounds == nullptr ? 400 : std::strtoul(rounds, nullptr, 10));
  return 0;
}
