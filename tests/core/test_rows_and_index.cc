// Rows never move, references and numbers agree, growth loses nothing; an index full of look-alikes still answers rightly.
#include <cstring>
#include <vector>

#include "check.h"
#include "stripe.h"

using namespace fleet;

namespace {

void rows_stay_where_they_are(size_t row_bytes, size_t count) {
  Rows rows(row_bytes);
  std::vector<char*> places;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t ref = rows.append();
    CHECK(ref != Rows::kNone && ref < Index::kPresent);
    CHECK(rows.ref_of(i) == ref);
    char* row = rows.at(ref);
    for (size_t byte = 0; byte < row_bytes; ++byte) CHECK(row[byte] == 0);
    std::memset(row, static_cast<int>(i % 251) + 1, row_bytes);
    places.push_back(row);
  }
  CHECK(rows.size() == count);
  CHECK(rows.memory_bytes() >= count * row_bytes);
  CHECK(rows.memory_bytes() <= count * row_bytes * 21 / 20 + 2 * Rows::kSlabBytes);
  for (size_t i = 0; i < count; ++i) {
    CHECK(rows.at(rows.ref_of(i)) == places[i]);
    CHECK(places[i][0] == static_cast<char>(i % 251 + 1) && places[i][row_bytes - 1] == places[i][0]);
  }
}

void index_finds_what_was_inserted(uint64_t id_step, uint64_t hash_mask) {
  Stripe stripe(12);
  constexpr uint64_t kCount = 5000;
  for (uint64_t i = 0; i < kCount; ++i) {
    const uint64_t id = i * id_step;
    // Index::grow() computes hashes itself, so that only a mask of all ones may grow; others stay below the first limit.
    const uint64_t hash = hash_of(id, 7) & hash_mask;
    if (hash_mask != ~uint64_t{0} && i == 14) break;
    CHECK(stripe.find(id, hash) == nullptr);
    CHECK(stripe.insert(id, hash, 7) != nullptr);
    CHECK(Stripe::key_of(stripe.find(id, hash)) == id);
  }
  for (uint64_t i = 0; i < stripe.rows.size(); ++i) {
    const char* row = stripe.find(i * id_step, hash_of(i * id_step, 7) & hash_mask);
    CHECK(row == stripe.rows.at(stripe.rows.ref_of(i)));
  }
  CHECK(stripe.find(~uint64_t{5}, hash_of(~uint64_t{5}, 7) & hash_mask) == nullptr);
}

}  // namespace

int main() {
  rows_stay_where_they_are(12, 3000);
  rows_stay_where_they_are(76, 200000);
  rows_stay_where_they_are(Rows::kMaxRowBytes, 9);
  rows_stay_where_they_are(Rows::kSlabBytes / 5 * 4 / 4 * 1, 12);
  index_finds_what_was_inserted(1, ~uint64_t{0});
  index_finds_what_was_inserted(uint64_t{1} << 48, ~uint64_t{0});
  index_finds_what_was_inserted(3, 0);  // one bucket, one tag
  index_finds_what_was_inserted(3, 1);  // the last bucket overflows into the first
  return 0;
}
