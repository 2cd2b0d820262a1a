// A trainer's copies of rows that the servers hold, for geo: each row with its row state and, behind that, its base: what the
// servers held of it when it was fetched. What a copy lies away from its base is what the servers do not have yet.
//
// A row is fresh from the moment it was taken until renew(): then it has to be fetched anew before its next use. Its state stays,
// and so does what the servers do not have of it. No cut is ever made of copies: the epoch of a row says whether it is fresh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "table.h"

namespace fleet {

class Copies : public Table {
 public:
  // The schema has a base, float32 weights and no row life.
  Copies(const Schema& schema, uint32_t num_stripes) : Table(schema, num_stripes) {}

  // Copies the weights of those ids[n] that are fresh to out[n, dim]; `stale` gets the places of the others, ascending.
  Status pull_fresh(const uint64_t* ids, size_t n, float* out, std::vector<uint32_t>* stale) noexcept;

  // As push(), of those ids[n] that are fresh; `stale` gets the places of the others, ascending.
  Status push_fresh(const uint64_t* ids, size_t n, const float* grads, float lr, int64_t step, size_t* num_nonfinite,
                    std::vector<uint32_t>* stale) noexcept;

  // Takes rows ids[n] as the servers hold them, weights[n, dim]: they are fresh, state stays, missing rows are made. If `owed`, what the
  // servers do not have of them is added, in the copies and in `weights`.
  Status take(const uint64_t* ids, size_t n, float* weights, bool owed) noexcept;

  // Writes to out[n, dim] by how much ids[n] lie below their base, divided by `parts`: what a server's sgd of rate 1 adds to
  // its rows if it is sent. Then the base is set to what the server holds now, if `follow`. Missing rows have not moved.
  Status moves(const uint64_t* ids, size_t n, float parts, bool follow, float* out) noexcept;

  // Adds sent[n, dim] to the base of ids[n]; or, if nullptr, lets there be nothing that the servers do not have.
  Status settle(const uint64_t* ids, size_t n, const float* sent) noexcept;

  // No row is fresh any more.
  void renew() noexcept;
};

}  // namespace fleet
