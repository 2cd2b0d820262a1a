// The body of kernels.cc: included once for each SIMD level, with FLEET_NAMESPACE and FLEET_LEVEL set. No include guard.
//
// Calls no function template of the standard library: its instance would be compiled for this level and shared with others.
// D is the number of floats in a row if it is known when compiling, else 0.

namespace fleet::FLEET_NAMESPACE {
namespace {

// How far ahead of the work a bucket and a row are fetched, in ids. Measured: benchmarks/dead_ends.md.
constexpr size_t kBucketAhead = 24;
constexpr size_t kRowAhead = 12;
constexpr size_t kRing = 32;  // a power of two above kBucketAhead

inline void fetch_for_read(const void* p, size_t bytes) {
  const char* c = static_cast<const char*>(p);
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(c + at, 0, 3);
  __builtin_prefetch(c + bytes - 1, 0, 3);
}

inline void fetch_for_write(const void* p, size_t bytes) {
  const char* c = static_cast<const char*>(p);
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(c + at, 1, 3);
  __builtin_prefetch(c + bytes - 1, 1, 3);
}

// The same for a row of `bytes`, of which at least kLeast if that is known when compiling (else 0): a loop whose end is not known
// costs pulls a tenth of their speed.
template <bool kWrites, size_t kLeast>
inline void fetch_row(const char* row, size_t bytes) {
  constexpr int kFor = kWrites ? 1 : 0;
  for (size_t at = 0; at < (kLeast != 0 ? kLeast : bytes); at += 64) __builtin_prefetch(row + at, kFor, 3);
  __builtin_prefetch(row + bytes - 1, kFor, 3);
}

// Entries of a bucket that look like `want`, as a bit mask; `empty` gets whether the bucket has an empty entry.
inline uint32_t candidates(const uint64_t* bucket, uint64_t want, bool* empty) {
#if FLEET_LEVEL == FLEET_LEVEL_AVX512
  const __m512i entries = _mm512_load_si512(bucket);
  const __m512i seen = _mm512_and_si512(entries, _mm512_set1_epi64(static_cast<long long>(Index::kWantMask)));
  *empty = bucket[7] == 0;  // filled from the front
  return _mm512_cmpeq_epi64_mask(seen, _mm512_set1_epi64(static_cast<long long>(want)));
#elif FLEET_LEVEL == FLEET_LEVEL_AVX2
  const __m256i mask = _mm256_set1_epi64x(static_cast<long long>(Index::kWantMask));
  const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(want));
  const __m256i low = _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(bucket)), mask);
  const __m256i high = _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(bucket + 4)), mask);
  *empty = bucket[7] == 0;
  const auto bits = [](__m256i v) { return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(v))); };
  return bits(_mm256_cmpeq_epi64(low, wanted)) | bits(_mm256_cmpeq_epi64(high, wanted)) << 4;
#else
  uint32_t found = 0;
  for (int i = 0; i < 8; ++i) found |= static_cast<uint32_t>((bucket[i] & Index::kWantMask) == want) << i;
  *empty = bucket[7] == 0;
  return found;
#endif
}

// The row of the first candidate, not yet confirmed by its key, or nullptr: then the id is certainly absent.
inline char* first_candidate(const Stripe& stripe, uint64_t hash) {
  const uint64_t want = Index::want(hash);
  for (const uint64_t* bucket = stripe.index.bucket(hash);; bucket = stripe.index.next(bucket)) {
    bool empty;
    const uint32_t found = candidates(bucket, want, &empty);
    if (found != 0) return stripe.rows.at(bucket[__builtin_ctz(found)] & Index::kRefMask);
    if (empty) return nullptr;
  }
}

#include "numbers.inc.h"

// Called before a row is changed, and right after it was created: nothing else may write into a row.
inline void before_change(const Run& run, char* row) { run.stripe.before_change(run.schema, row); }

inline void write_initial_state(const Schema& schema, char* state) {
  const float value = schema.initial_state();
  for (size_t j = 0; j < schema.state_dim(); ++j) store_numbers(schema.state, &value, 1, state + j * bytes_of(schema.state));
}

inline void write_initial_row(const Schema& schema, uint64_t id, char* row, float* scratch) {
  if (schema.weights == Number::kFloat32) {
    write_initial_weights(schema, id, reinterpret_cast<float*>(Stripe::weights_of(schema, row)));
  } else {
    write_initial_weights(schema, id, scratch);
    store_numbers(schema.weights, scratch, schema.dim, Stripe::weights_of(schema, row));
  }
  if (schema.initial_state() != 0.0f) write_initial_state(schema, Stripe::state_of(schema, row));  // fresh rows are zero
}

// Its weights are 0 until the caller writes them.
inline char* insert_blank(const Run& run, uint64_t id, uint64_t hash) {
  char* row = run.stripe.insert(id, hash, run.schema.salt);
  if (row == nullptr) return nullptr;
  before_change(run, row);
  if (run.schema.initial_state() != 0.0f) write_initial_state(run.schema, Stripe::state_of(run.schema, row));
  return row;
}

inline char* insert_initial(const Run& run, uint64_t id, uint64_t hash) {
  char* row = run.stripe.insert(id, hash, run.schema.salt);
  if (row == nullptr) return nullptr;
  before_change(run, row);
  write_initial_row(run.schema, id, row, run.scratch);
  return row;
}

enum class Missing {
  kNone,     // the row is nullptr
  kInitial,  // is created, at its initial value
  kBlank,    // is created, right before work(), which writes its weights
};

// Calls work(position, id, row) for every id of the run, in order: three stages, so that the cache misses of different ids
// overlap. `ahead(position)` is called some ids earlier, to fetch the caller's own memory.
// Missing ids: see Missing; false is returned if there is no memory.
// kWrites: rows will be written. Fetching for writing what is only read would take hot rows away from other threads' caches.
// `row_bytes`, of each row, are what work() will look at; kLeast: see fetch_row().
template <Missing kMissing, bool kWrites, size_t kLeast, class Ahead, class Work>
inline bool walk(const Run& run, size_t row_bytes, const Ahead& ahead, const Work& work) {
  const uint64_t salt = run.schema.salt;
  const size_t count = run.count;
  uint64_t hashes[kRing];
  char* rows[kRing];
  for (size_t i = 0; i < count + kBucketAhead; ++i) {
    if (i < count) {
      const uint64_t hash = hash_of(run.ids[i], salt);
      hashes[i % kRing] = hash;
      __builtin_prefetch(run.stripe.index.bucket(hash), 0, 3);
    }
    const size_t near = i - (kBucketAhead - kRowAhead);  // wraps round below 0: then it is not below count
    if (near < count) {
      const uint64_t hash = hashes[near % kRing];
      char* row = first_candidate(run.stripe, hash);
      if (row != nullptr) {
        fetch_row<kWrites, kLeast>(row, row_bytes);
      } else if (kMissing == Missing::kInitial) {
        row = insert_initial(run, run.ids[near], hash);
        if (row == nullptr) return false;
      }
      rows[near % kRing] = row;
      ahead(run.order != nullptr ? run.order[near] : near);
    }
    const size_t now = i - kBucketAhead;
    if (now < count) {
      const uint64_t id = run.ids[now];
      char* row = rows[now % kRing];
      if (row == nullptr ? kMissing == Missing::kBlank : Stripe::key_of(row) != id) {  // another key with this tag
        const uint64_t hash = hashes[now % kRing];
        row = run.stripe.find(id, hash);
        if (row == nullptr && kMissing != Missing::kNone) {
          row = kMissing == Missing::kBlank ? insert_blank(run, id, hash) : insert_initial(run, id, hash);
          if (row == nullptr) return false;
        }
      }
      work(run.order != nullptr ? run.order[now] : now, id, row);
    }
  }
  return true;
}

template <size_t D>
inline void copy_row(const float* from, size_t dim, float* to) {
  if (D == 0 && dim == 0) return;  // a table without state: its pointers may be null
  std::memcpy(to, from, (D != 0 ? D : dim) * sizeof(float));
}

inline void fill(float* to, size_t count, float value) {
  for (size_t j = 0; j < count; ++j) to[j] = value;
}

#include "update.inc.h"

// What a row has at least up to the end of its weights; 0 if D is not known.
template <size_t D>
constexpr size_t least_bytes() {
  return D != 0 ? Schema::kLifeOffset + 4 * D : 0;
}

template <size_t D, bool kFloats>
inline void read_weights(const Schema& schema, char* row, float* out) {
  const size_t dim = D != 0 ? D : schema.dim;
  if (kFloats) {
    copy_row<D>(reinterpret_cast<const float*>(Stripe::weights_of(schema, row)), dim, out);
  } else {
    load_numbers(schema.weights, Stripe::weights_of(schema, row), dim, out);
  }
}

// What an id without a row reads as: what a row of it would hold.
inline void read_unseen(const Run& run, uint64_t id, float* out) {
  const Schema& schema = run.schema;
  if (schema.life.unseen_zero) {
    fill(out, schema.dim, 0.0f);
    return;
  }
  write_initial_weights(schema, id, out);
  if (schema.weights == Number::kFloat32) return;
  store_numbers(schema.weights, out, schema.dim, reinterpret_cast<char*>(run.scratch));
  load_numbers(schema.weights, reinterpret_cast<const char*>(run.scratch), schema.dim, out);
}

template <size_t D, bool kFloats = true>
bool pull_rows(const Run& run, float* out) {
  const size_t dim = D != 0 ? D : run.schema.dim;
  return walk<Missing::kInitial, false, least_bytes<D>()>(
      run, run.schema.state_offset(), [=](size_t at) { fetch_for_write(out + at * dim, dim * 4); },
      [&run, dim, out](size_t at, uint64_t, char* row) {
        read_weights<D, kFloats>(run.schema, row, out + at * dim);
      });
}

template <size_t D, bool kFloats = true>
void peek_rows(const Run& run, float* out) {
  const size_t dim = D != 0 ? D : run.schema.dim;
  walk<Missing::kNone, false, least_bytes<D>()>(
      run, run.schema.state_offset(), [=](size_t at) { fetch_for_write(out + at * dim, dim * 4); },
      [&run, dim, out](size_t at, uint64_t id, char* row) {
        if (row != nullptr) {
          read_weights<D, kFloats>(run.schema, row, out + at * dim);
        } else {
          read_unseen(run, id, out + at * dim);
        }
      });
}

bool pull(const Run& run, float* out) {
  if (run.schema.weights != Number::kFloat32) return pull_rows<0, false>(run, out);
  switch (run.schema.dim) {
    case 8: return pull_rows<8>(run, out);
    case 16: return pull_rows<16>(run, out);
    case 32: return pull_rows<32>(run, out);
    default: return pull_rows<0>(run, out);
  }
}

void peek(const Run& run, float* out) {
  if (run.schema.weights != Number::kFloat32) return peek_rows<0, false>(run, out);
  switch (run.schema.dim) {
    case 8: return peek_rows<8>(run, out);
    case 16: return peek_rows<16>(run, out);
    case 32: return peek_rows<32>(run, out);
    default: return peek_rows<0>(run, out);
  }
}

// One loop for all optimizers; the update is called, not inlined: as fast, and a tenth of the code (benchmarks/dead_ends.md).
template <size_t kLeast>
bool push_rows(const Run& run, const float* grads, const Prepared& prepared) {
  const size_t dim = run.schema.dim;
  return walk<Missing::kInitial, true, kLeast>(
      run, run.schema.row_bytes(), [=](size_t at) { fetch_for_read(grads + at * dim, dim * 4); },
      [&run, &prepared, dim, grads](size_t at, uint64_t, char* row) {
        before_change(run, row);
        prepared.update(prepared, run, row, grads + at * dim);
      });
}

bool push(const Run& run, const float* grads, const Rate& rate) {
  const Prepared prepared = kPrepare.of[run.schema.optimizer->number](run.schema, rate);
  switch (run.schema.row_bytes() / 64) {  // rows of up to four lines: fetched without a loop
    case 0: return push_rows<4>(run, grads, prepared);
    case 1: return push_rows<68>(run, grads, prepared);
    case 2: return push_rows<132>(run, grads, prepared);
    case 3: return push_rows<196>(run, grads, prepared);
    default: return push_rows<0>(run, grads, prepared);
  }
}

bool assign(const Run& run, const float* weights, const float* state) {
  const Schema& schema = run.schema;
  const size_t dim = schema.dim;
  const size_t state_dim = schema.state_dim();
  return walk<Missing::kBlank, true, 0>(
      run, schema.base_offset(), [](size_t) {},
      [&run, &schema, dim, state_dim, weights, state](size_t at, uint64_t, char* row) {
        before_change(run, row);
        store_numbers(schema.weights, weights + at * dim, dim, Stripe::weights_of(schema, row));
        if (state != nullptr) {
          store_numbers(schema.state, state + at * state_dim, state_dim, Stripe::state_of(schema, row));
        } else {
          write_initial_state(schema, Stripe::state_of(schema, row));
        }
      });
}

void read(const Run& run, bool* found, float* weights, float* state) {
  const Schema& schema = run.schema;
  const size_t dim = schema.dim;
  const size_t state_dim = schema.state_dim();
  walk<Missing::kNone, false, 0>(
      run, schema.row_bytes(), [](size_t) {},
      [&run, &schema, dim, state_dim, found, weights, state](size_t at, uint64_t id, char* row) {
        found[at] = row != nullptr;
        if (row != nullptr) {
          load_numbers(schema.weights, Stripe::weights_of(schema, row), dim, weights + at * dim);
          load_numbers(schema.state, Stripe::state_of(schema, row), state_dim, state + at * state_dim);
        } else {
          read_unseen(run, id, weights + at * dim);
          for (size_t j = 0; j < state_dim; ++j) {
            char stored[4];
            const float value = schema.initial_state();
            store_numbers(schema.state, &value, 1, stored);
            load_numbers(schema.state, stored, 1, state + at * state_dim + j);
          }
        }
      });
}

void find(const Run& run, char** rows) {
  size_t count = 0;  // work() is called in the order of the ids
  walk<Missing::kNone, true, 0>(run, run.schema.row_bytes(), [](size_t) {}, [&count, rows](size_t, uint64_t, char* row) { rows[count++] = row; });
}

bool make(const Run& run) {
  return walk<Missing::kInitial, true, 0>(run, run.schema.row_bytes(), [](size_t) {}, [](size_t, uint64_t, char*) {});
}

#include "copies.inc.h"

inline uint32_t nonfinite(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits & 0x7f800000u) == 0x7f800000u;
}

size_t count_nonfinite(const float* values, size_t count) {
  size_t total = 0;
  for (size_t at = 0; at < count; at += 65536) {  // blocks, so that the inner sum fits the vector's lanes
    const size_t end = count - at < 65536 ? count : at + 65536;
    uint32_t sum = 0;
    for (size_t i = at; i < end; ++i) sum += nonfinite(values[i]);
    total += sum;
  }
  return total;
}

size_t scale(float* values, size_t count, float factor) {
  size_t total = 0;
  for (size_t at = 0; at < count; at += 65536) {
    const size_t end = count - at < 65536 ? count : at + 65536;
    uint32_t sum = 0;
    for (size_t i = at; i < end; ++i) {
      const float value = values[i] * factor;
      values[i] = value;
      sum += nonfinite(value);
    }
    total += sum;
  }
  return total;
}

template <size_t D>
void expand_rows(const float* rows, size_t dim_, const uint32_t* inverse, size_t count, float* out) {
  const size_t dim = D != 0 ? D : dim_;
  for (size_t i = 0; i < count; ++i) {
    if (i + 16 < count) fetch_for_read(rows + size_t{inverse[i + 16]} * dim, dim * 4);
    copy_row<D>(rows + size_t{inverse[i]} * dim, dim, out + i * dim);
  }
}

template <size_t D>
void add_rows_of(const float* grads, size_t dim_, const uint32_t* inverse, size_t count, float* out) {
  const size_t dim = D != 0 ? D : dim_;
  for (size_t i = 0; i < count; ++i) {
    if (i + 16 < count) fetch_for_write(out + size_t{inverse[i + 16]} * dim, dim * 4);
    const float* __restrict from = grads + i * dim;
    float* __restrict to = out + size_t{inverse[i]} * dim;
    for (size_t j = 0; j < dim; ++j) to[j] += from[j];
  }
}

void expand(const float* rows, size_t dim, const uint32_t* inverse, size_t count, float* out) {
  switch (dim) {
    case 10: return expand_rows<10>(rows, dim, inverse, count, out);
    case 8: return expand_rows<8>(rows, dim, inverse, count, out);
    case 16: return expand_rows<16>(rows, dim, inverse, count, out);
    case 32: return expand_rows<32>(rows, dim, inverse, count, out);
    default: return expand_rows<0>(rows, dim, inverse, count, out);
  }
}

void add_rows(const float* grads, size_t dim, const uint32_t* inverse, size_t count, float* out) {
  switch (dim) {
    case 10: return add_rows_of<10>(grads, dim, inverse, count, out);
    case 8: return add_rows_of<8>(grads, dim, inverse, count, out);
    case 16: return add_rows_of<16>(grads, dim, inverse, count, out);
    case 32: return add_rows_of<32>(grads, dim, inverse, count, out);
    default: return add_rows_of<0>(grads, dim, inverse, count, out);
  }
}

#if FLEET_LEVEL == FLEET_LEVEL_AVX512
constexpr Kernels kKernels{Simd::kAvx512, "avx512", pull, peek, push, assign, read, find, make, pull_fresh, push_fresh, take, moves,
                           settle, count_nonfinite, expand, add_rows, scale, load_numbers, store_numbers};
#elif FLEET_LEVEL == FLEET_LEVEL_AVX2
constexpr Kernels kKernels{Simd::kAvx2, "avx2", pull, peek, push, assign, read, find, make, pull_fresh, push_fresh, take, moves,
                           settle, count_nonfinite, expand, add_rows, scale, load_numbers, store_numbers};
#else
constexpr Kernels kKernels{Simd::kPortable, "portable", pull, peek, push, assign, read, find, make, pull_fresh, push_fresh, take, moves,
                           settle, count_nonfinite, expand, add_rows, scale, load_numbers, store_numbers};
#endif

}  // namespace
}  // namespace fleet::FLEET_NAMESPACE
