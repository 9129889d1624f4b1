#pragma once
/// \file
/// Whether to load a prompt's cached blocks or to compute them again, and how much of a load hides behind computing.
///
/// A load wins when it is done earlier: bytes / bandwidth + latency, with the links shared as they are now, against the
/// prefill of those tokens (the same criterion as a critical ratio of cached to computed tokens, arXiv:2601.19910).
/// Neither choice sees transfers that begin later.

#include <cstddef>
#include <functional>
#include <span>

#include "sim/memory/tiered_store.h"

namespace evictsim::sim {

/// When both a load and the computation that needs it are done, counted from their common start, for a model of
/// `layers` equal layers that are loaded one after the other while computing follows: layer i is computed when it is
/// there and layer i - 1 is computed. That is the longer of the two plus one layer of the shorter, rounded up. With one
/// layer nothing overlaps, which is a blocking load: the sum. Saturates at end_of_time.
/// Throws Error(invalid_argument) for negative times and fewer layers than 1.
Time overlapped(Time load, Time compute, int layers);

struct LoadChoice {
  std::size_t segments = 0;  ///< to load, the first ones; 0: compute everything
  Time load = 0;             ///< of these
  Time compute = 0;          ///< of the rest of the prompt
  Time finish = 0;           ///< of both
};

/// The number of segments of store.find()'s answer with which the prompt is done first; the fewest of equals.
/// `compute_from(block)` is the time to compute the prompt from that block on when all before it are there (StepTime
/// gives it); `first_block` is where the device's own blocks end. `layers` as in overlapped().
LoadChoice load_or_recompute(const TieredStore& store, std::span<const PrefixSegment> found, std::size_t first_block,
                             int layers, const std::function<Time(std::size_t block)>& compute_from);

}  // namespace evictsim::sim
