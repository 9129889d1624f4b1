#pragma once
/// \file
/// LRU stack distances (Mattson and others, 1970): one pass over a trace that answers for every cache size.

#include <cstdint>
#include <span>
#include <vector>

#include "traces/blocks/block_trace.h"

namespace evictsim::sim {

/// For each reference the number of distinct objects referenced since the last reference to the same object, itself
/// included: an LRU cache of that many objects or more hits. 0 for first references, which always miss. Where the trace
/// has requests, what counts is the moment before the request. Exact; a logarithm of the number of objects per
/// reference (Bennett, Kruskal: LRU stack processing, IBM Journal 19(4), 1975, with a word of bits at each leaf).
std::vector<std::uint32_t> stack_distances(const traces::BlockTrace& trace);

/// Hits of LRU caches of these sizes in objects, in their order.
std::vector<std::uint64_t> lru_hits(std::span<const std::uint32_t> distances, std::span<const std::uint64_t> sizes);

}  // namespace evictsim::sim
