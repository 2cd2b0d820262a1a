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

// The id of a hash: mix64 is a bijection.
uint64_t id_of_hash(uint64_t hash, uint64_t salt) {
  const auto inverse = [](uint64_t factor) {
    uint64_t x = factor;  // Newton: each round doubles the right bits
    for (int i = 0; i < 6; ++i) x *= 2 - factor * x;
    return x;
  };
  uint64_t x = hash ^ (hash >> 33);
  x *= inverse(0xc4ceb9fe1a85ec53ULL);
  x ^= x >> 33;
  x *= inverse(0xff51afd7ed558ccdULL);
  return x ^ (x >> 33) ^ salt;
}

// Whatever is inserted, erased and waited for: what is there is found, what is gone is not, and places of rows are taken again.
void erased_rows_leave_no_trace(const std::vector<uint64_t>& ids, uint64_t rounds) {
  constexpr uint64_t kSalt = 7;
  Stripe stripe(12);
  std::vector<int> is_there(ids.size());  // 0: not there, 1: row, 2: waiting
  std::vector<uint32_t> counts(ids.size());
  uint64_t random = 1;
  uint64_t most = 0, rows = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    random = mix64(random + round);
    const size_t at = random % ids.size();
    const uint64_t hash = hash_of(ids[at], kSalt);
    uint64_t* waiting = stripe.index.find_waiting(hash);
    CHECK((waiting != nullptr) == (is_there[at] == 2));
    if (is_there[at] == 0 && (random >> 40) % 2 == 0) {
      char* row = stripe.insert(ids[at], hash, kSalt);
      CHECK(row != nullptr && Stripe::key_of(row) == ids[at] && Stripe::epoch_of(row) == stripe.epoch);
      is_there[at] = 1;
      most = ++rows > most ? rows : most;
    } else if (is_there[at] == 0) {
      CHECK(stripe.index.reserve_one(stripe.rows, kSalt));
      stripe.index.add_waiting(Index::with_count(Index::want_waiting(hash), counts[at] = 1, 3));
      is_there[at] = 2;
    } else if (is_there[at] == 2) {
      CHECK(Index::count_of(*waiting) == counts[at] && Index::generation_of(*waiting) == 3);
      if (counts[at] < 3) {
        *waiting = Index::with_count(*waiting, ++counts[at], 3);
      } else {
        stripe.index.erase(waiting, stripe.rows, kSalt);
        is_there[at] = 0;
      }
    } else {
      stripe.erase(stripe.find(ids[at], hash), kSalt);
      is_there[at] = 0;
      --rows;
    }
    if (round % (rounds / 8) != 0) continue;
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint64_t h = hash_of(ids[i], kSalt);
      const char* row = stripe.find(ids[i], h);
      CHECK((row != nullptr) == (is_there[i] == 1) && (row == nullptr || Stripe::key_of(row) == ids[i]));
      CHECK((stripe.index.find_waiting(h) != nullptr) == (is_there[i] == 2));
    }
    uint64_t used = 0;  // buckets are filled from the front
    for (uint64_t place = 0; place < stripe.index.num_places(); ++place) {
      const bool here = *stripe.index.place_at(place) != 0;
      CHECK(!here || place % 8 == 0 || *stripe.index.place_at(place - 1) != 0);
      used += here;
    }
    CHECK(used == stripe.index.used() && stripe.rows.size() == rows);
  }
  CHECK(stripe.rows.num_places() == most);  // no place is lost
}

std::vector<uint64_t> any_ids(size_t count) {
  std::vector<uint64_t> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(i);
  return ids;
}

// Ids of two neighbouring buckets, the last and the first, and of two tags: chains as long as chains get.
std::vector<uint64_t> crowded_ids(size_t count) {
  std::vector<uint64_t> ids;
  for (uint64_t i = 0; i < count; ++i) ids.push_back(id_of_hash(i << 54 | (i % 2) << 32 | (i % 3 == 0 ? 0xffffffffu : 0), 7));
  return ids;
}

}  // namespace

int main() {
  erased_rows_leave_no_trace(any_ids(20000), 400000);
  erased_rows_leave_no_trace(any_ids(20), 20000);
  erased_rows_leave_no_trace(crowded_ids(400), 40000);
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
