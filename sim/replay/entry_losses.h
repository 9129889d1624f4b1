#pragma once
/// \file
/// What happens to every entry of a layer over its decode rows: the attention it gets with the full cache, and how much
/// of it a policy loses (docs/metrics.md). Sums are made in double precision, row after row.

#include <cstdint>
#include <span>
#include <vector>

#include "sim/replay/evaluation.h"
#include "sim/replay/kept_chain.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/most_attended.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// By query head and entry: [Hq][length].
using HeadEntries = std::vector<std::vector<double>>;

/// With the full cache, the same for every policy.
class EntryAttention {
 public:
  explicit EntryAttention(const LayerData& layer);
  void add(const Tile& tile, const MostAttended& most_attended);
  /// Makes means over rows of the sums; to be called once, after the last tile.
  void finish();

  [[nodiscard]] const HeadEntries& attention() const { return attention_; }
  [[nodiscard]] const HeadEntries& attended_most() const { return attended_most_; }

 private:
  const LayerData& layer_;
  HeadEntries attention_, attended_most_;
  Index rows_ = 0;
};

/// Of one point: [length], means over rows and query heads.
struct LostEntries {
  explicit LostEntries(Index length)
      : mass(static_cast<std::size_t>(length), 0.0), premature_evictions(static_cast<std::size_t>(length), 0.0) {}
  std::vector<double> mass, premature_evictions;
};

/// Of a member of a chain: what the full cache attends of the prompt entries that it does not keep. `heads`: the cache
/// heads of the chain; `full` is finished.
LostEntries lost_by(const KeptChain& chain, std::size_t member, std::span<const CacheHead> heads,
                    const EntryAttention& full);

/// Of a point that is walked row by row.
class WalkLosses {
 public:
  explicit WalkLosses(const LayerData& layer) : layer_(layer), sums_(layer.length()) {}
  /// Takes in the rows of a tile for one cache head: entry j is attended by token rows up to `last_row[j]`.
  void add(const Tile& tile, const MostAttended& most_attended, const CacheHead& head,
           std::span<const std::int32_t> last_row);
  /// Takes in row `r` of a query head whose attention a placement arranged: `attended`, token rows, ascending.
  void add(const Tile& tile, const MostAttended& most_attended, int query_head, Index r,
           std::span<const std::int32_t> attended);
  [[nodiscard]] LostEntries means() const;

 private:
  const LayerData& layer_;
  LostEntries sums_;
};

}  // namespace evictsim::sim
