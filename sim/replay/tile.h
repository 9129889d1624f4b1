#pragma once
/// \file
/// A block of decode rows attending over the full cache: computed once per layer, shared by every policy and budget.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "models/attention.h"
#include "models/projection.h"
#include "sim/replay/attention_sums.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/token_classes.h"

namespace evictsim::sim {

/// The entries that a dilution counts as useful, per query head and row, with their full-softmax mass.
class UsefulSets {
 public:
  UsefulSets() = default;
  UsefulSets(int query_heads, Index rows) : rows_(rows), sets_(static_cast<std::size_t>(query_heads * rows)) {}

  struct Entry {
    std::int32_t row = 0;
    float mass = 0;
  };
  [[nodiscard]] std::vector<Entry>& at(int query_head, Index row) {
    return sets_[static_cast<std::size_t>(query_head * rows_ + row)];
  }
  [[nodiscard]] const std::vector<Entry>& at(int query_head, Index row) const {
    return sets_[static_cast<std::size_t>(query_head * rows_ + row)];
  }

 private:
  Index rows_ = 0;
  std::vector<std::vector<Entry>> sets_;
};

/// [B, Hq] attention on each class, indexed by TokenClass.
using ClassMatrices = std::array<Matrix, token_class_count>;

/// Full-cache attention of a block of decode rows of one layer.
struct Tile {
  std::span<const std::int32_t> rows;            ///< [B] token rows, ascending
  Index entries = 0;                             ///< entries that the last row sees: its row + 1
  std::vector<models::AttentionColumns> heads;   ///< [Hkv] columns g * B + r
  std::vector<Matrix> by_query;                  ///< [Hkv] probabilities transposed, [G * B, entries]; when asked for
  std::vector<AttentionTotals> decoded;          ///< [Hkv] sums over the entries from the first decode row on
  std::vector<Eigen::RowVectorXd> decoded_mass;  ///< [Hkv] [G * B] on entries that may be of the class decoded
  Matrix output;                                 ///< [B, Hq * d] attention output before W_O
  std::vector<double> output_squared;            ///< [B] |W_O output|^2 behind any norm; empty without W_O
  UsefulSets useful;
  TokenClasses classes;      ///< without sinks and spans until `split_by_class` is told
  Matrix dilution, entropy;  ///< [B, Hq]
  ClassMatrices class_mass;  ///< [B, Hq] full attention; empty before `split_by_class`

  [[nodiscard]] Index size() const { return static_cast<Index>(rows.size()); }
};

/// Decode rows per tile, so that a tile's probabilities stay within about `tile_bytes` (the whole trace in one tile
/// where it fits: its logits are then computed once).
Index tile_rows(const LayerData& layer);

/// Attends; fills `rows`, `entries`, `heads`, `decoded`, `decoded_mass`, `output`, `entropy`, `output_squared`, and
/// `by_query` if asked for.
Tile make_tile(const LayerData& layer, std::span<const std::int32_t> rows, bool with_by_query,
               const models::OutputProjection* projection);

/// Adds the tile's attention on prompt entries to `mass` [Hq][prompt_length], row after row.
void add_future_mass(const LayerData& layer, const Tile& tile, std::vector<std::vector<double>>& mass);

/// The same over all decode rows of a layer, tile by tile: [Hq][prompt_length].
std::vector<std::vector<double>> future_mass_of(const LayerData& layer);

/// Fills `useful` and `dilution`: evidence spans where the sequence has them, else the `count` prompt entries with the
/// largest `mass` outside the row at hand (docs/metrics.md). No set, and NaN, where neither exists.
void find_useful_sets(const LayerData& layer, const std::vector<std::vector<double>>& mass, Index decode_rows,
                      Index count, Tile& tile);

}  // namespace evictsim::sim
