#pragma once
/// \file
/// Bytes at rest in every tier and bytes on the move, by decode row.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "analysis/run_accumulator.h"
#include "sim/replay/replay.h"

namespace evictsim::analysis {

/// Of one point in one sequence. Bytes are rounded in every layer, so that the order of layers does not matter. Memory:
/// 8 numbers per decode row, and per layer where layers are kept apart.
class TierDetail {
 public:
  TierDetail() = default;
  TierDetail(std::size_t layers, std::size_t steps, bool by_layer);

  /// Row `index` of the block, which is decode row `step`; an entry of a cache head takes `entry_bytes`.
  void add(const sim::LayerBlock& block, std::size_t index, std::size_t step, std::int64_t entry_bytes);
  /// stored_hbm_bytes; with a placement also what lies in the other tiers, and what moves.
  [[nodiscard]] std::vector<DetailArray> arrays() const;

 private:
  static constexpr std::size_t quantities = 9;
  using Bytes = std::array<std::int64_t, quantities>;

  bool by_layer_ = false;
  bool placed_ = false;
  std::size_t steps_ = 0;
  std::vector<Bytes> bytes_;             ///< [layer or 1, step]
  std::vector<std::uint8_t> evaluated_;  ///< the same
};

}  // namespace evictsim::analysis
