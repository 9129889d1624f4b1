#pragma once
/// \file
/// The entries that decode rows attend most with the full cache, and which of them had been evicted by then.

#include <cstdint>
#include <span>
#include <vector>

#include "sim/replay/evaluation.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// For every row and query head of a tile, the `count` visible entries (all, where fewer are visible) with the largest
/// full attention; older first among equals. They do not depend on any policy: computed once per tile.
class MostAttended {
 public:
  MostAttended(const LayerData& layer, const Tile& tile, Index count);

  /// In no particular order.
  [[nodiscard]] std::span<const std::int32_t> at(int query_head, Index row) const {
    const auto set = static_cast<std::size_t>(query_head * rows_ + row);
    return {entries_.data() + set * static_cast<std::size_t>(count_), static_cast<std::size_t>(sizes_[set])};
  }
  /// Share evicted before the row attended, under every member of a chain: `level` [prompt_length] of one cache head,
  /// as KeptChain has it. Writes the head's columns of `shares` [member] [B, Hq].
  void evicted_from_chain(std::span<const std::uint16_t> level, const CacheHead& head, std::span<Matrix> shares) const;
  /// The same where entry j is attended by token rows up to `last_row[j]`.
  void evicted_by_row(const Tile& tile, std::span<const std::int32_t> last_row, const CacheHead& head,
                      Matrix& shares) const;
  /// Share that a query head does not attend in row `r` where a placement arranged what it attends: `attended`, token
  /// rows, ascending.
  [[nodiscard]] float missing(int query_head, Index r, std::span<const std::int32_t> attended) const;

 private:
  Index rows_;
  Index count_;
  std::vector<std::int32_t> entries_;  ///< [Hq * B][count]
  std::vector<std::int32_t> sizes_;    ///< [Hq * B]
};

}  // namespace evictsim::sim
