// The waiting ids of one stripe as they were when a cut began.
#pragma once

#include <vector>

#include "id_file.h"
#include "stripe.h"

namespace fleet {

// Appends those of shards [shard_low, shard_high), and ends the cut's interest in waiting ids. Entries of an index move whenever
// one goes, so a stripe is copied under one hold of its lock, for as long as a scan of its index takes. What changed since the
// cut is put back afterwards. May throw std::bad_alloc.
void copy_waiting(Stripe& stripe, uint32_t number, uint32_t shard_low, uint32_t shard_high, std::vector<WaitingId>* to);

}  // namespace fleet
