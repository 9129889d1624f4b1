#pragma once
/// \file
/// How much full attention falls on attention sinks that a policy has evicted. Sinks: the first four prompt entries, as
/// StreamingLLM keeps them (arXiv 2309.17453).

#include <cstdint>
#include <span>
#include <vector>

#include "sim/replay/evaluation.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

inline constexpr Index sink_entries = 4;

/// Sums over the query heads of one tile; each head writes its own column.
class LostSinks {
 public:
  LostSinks(const LayerData& layer, const Tile& tile, Index members);

  /// Under every member of a chain: `level` [prompt_length] of one cache head, as KeptChain has it.
  void evicted_from_chain(std::span<const std::uint16_t> level, const CacheHead& head);
  /// Of one member, where entry j is attended by token rows up to `last_row[j]`.
  void evicted_by_row(Index member, std::span<const std::int32_t> last_row, const CacheHead& head);
  /// Of one member in row `r`, where a placement arranged what a query head attends: token rows, ascending.
  void missing(Index member, Index r, int query_head, std::span<const std::int32_t> attended);

  /// Mean over query heads: [members * B].
  [[nodiscard]] std::vector<double> means() const;

 private:
  /// Full attention of a query head's row `r` on a sink.
  [[nodiscard]] double mass(int query_head, Index r, Index sink) const;
  [[nodiscard]] double& lost(Index member, Index r, int query_head) {
    return lost_[static_cast<std::size_t>((member * tile_.size() + r) * query_heads_ + query_head)];
  }

  const Tile& tile_;
  Index members_;
  Index query_heads_;
  Index group_;
  Index sinks_;
  std::vector<double> lost_;  ///< [member][B][Hq]
};

}  // namespace evictsim::sim
