#pragma once
/// \file
/// Hit ratios of caches over a block trace: policies times sizes, exact or estimated from a sample of the objects.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/memory/replacement_kind.h"
#include "traces/blocks/block_trace.h"

namespace evictsim::sim {

struct HitRatioOptions {
  std::vector<std::uint64_t> sizes;  ///< of caches, in objects or bytes; 1 to largest_cache
  bool bytes = false;                ///< needs a trace with sizes
  /// Share of the objects to replay, above 0, at most 1; nothing: all, exactly.
  std::optional<double> sample;
  std::uint64_t seed = 0;  ///< which objects are sampled
  int threads = 0;         ///< 0: all cores; results do not depend on it
};

inline constexpr std::uint64_t largest_cache = std::uint64_t{1} << 53U;

struct HitRatio {
  std::string policy;
  std::uint64_t size = 0;
  std::uint64_t references = 0;
  std::uint64_t hits = 0;       ///< when sampled: hit_ratio x references, rounded
  double hit_ratio = 0;         ///< hits / references
  std::optional<double> error;  ///< when sampled: half-width of the 95 % interval of hit_ratio
};

/// A row for each policy and size, sizes of a policy next to each other, in the order given.
///
/// A reference hits when its object is resident as its request begins (traces::BlockTrace::request_ends).
///
/// Exact: LRU in objects takes one pass for all sizes, every other cell a replay of its own; cells run in parallel.
///
/// Sampled (SHARDS: Waldspurger, Park, Garthwaite, Ahmad, FAST 2015; for other policies than LRU the scaled-down caches
/// of Waldspurger, Saemundsson, Ahmad, Park, USENIX ATC 2017): the references to a share R of the objects, chosen by
/// hash, go through caches of R x size. With misses m_o of each sampled object o among N references the miss ratio is
/// sum m_o / (N R), which is SHARDS with its correction of counts. The error is the sum of two parts, since a sample
/// with too many objects has both too many misses and too little room:
/// 1.96 sqrt((1 - R) sum m_o^2) / (N R), the sampling error of a total under independent sampling of objects (Horvitz,
/// Thompson, 1952), and half the difference between caches smaller and larger by 1.96 sqrt(R size (1 - R)) objects, the
/// uncertainty about how many sampled objects `size` objects contain.
///
/// Throws Error(invalid_argument) for sizes and samples out of range, missing_data for bytes without sizes, and
/// unsupported for a sample of which a cache would hold less than one object.
std::vector<HitRatio> hit_ratios(const traces::BlockTrace& trace, const std::vector<Replacement>& policies,
                                 const HitRatioOptions& options);

/// Index of the next reference to the same object, for each reference; 0 when there is none. Within 2^31 references.
std::vector<std::uint32_t> next_references(const traces::BlockTrace& trace);

}  // namespace evictsim::sim
