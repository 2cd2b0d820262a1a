// When an id earns its row: after so many sightings, by chance, or with a score of shows and clicks. A sighting is an occurrence in a
// batch that is pushed, so that it counts once like the push itself, and the count is the same for any number of trainers.
//
// By count and by score an id without a row waits in the index: 8 bytes, no row (see index.h). By chance nothing is kept: the
// draw comes from (seed, table, id, step) alone.
#pragma once

#include <cstdint>

#include "eviction.h"
#include "schema.h"
#include "stripe.h"

namespace fleet {

enum class Entrance { kAdmitted, kWaits, kNoMemory };

// Counts the sightings of an id that has no row, and says whether it earns one now; then it waits no more. `step` is the push's,
// `now` the latest of all pushes: a trainer that is behind the others counts in their generation. The caller holds the stripe's lock.
Entrance admit(Stripe& stripe, const Schema& schema, const Eviction& eviction, uint64_t id, uint64_t hash, uint32_t shows,
               uint32_t clicks, uint64_t step, uint64_t now) noexcept;

}  // namespace fleet
