// Denormal numbers cost a hundred cycles each and mean nothing in a gradient.
#pragma once

namespace fleet {

// Reads and writes denormals as zero in the calling thread. Returns false where the CPU has no such switch.
bool flush_denormals() noexcept;

}  // namespace fleet
