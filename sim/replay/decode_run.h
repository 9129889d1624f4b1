#pragma once
/// \file
/// One point whose policy cuts while decoding: walks the decode rows of one layer.

#include <cstdint>
#include <memory>
#include <vector>

#include "policies/policy.h"
#include "sim/replay/layer_cache.h"

namespace evictsim::sim {

/// The state of one (policy, budget) in one layer, advanced tile by tile.
class DecodeRun {
 public:
  /// Makes the prompt's cut if the schedule asks for it.
  DecodeRun(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer,
            const PromptFeatures& features, RandomKey key);

  /// Lets every decode row up to the tile's last one arrive, attend, be observed and cut, in row order.
  void advance(const Tile& tile, bool record_resident);

  [[nodiscard]] const LayerCache& cache() const { return cache_; }
  /// Kept after the prompt: [cache head], ascending rows; and the scores of that cut (empty when nothing was cut).
  [[nodiscard]] const std::vector<std::vector<std::int32_t>>& prompt_kept() const { return prompt_kept_; }
  [[nodiscard]] const std::vector<std::vector<float>>& prompt_scores() const { return prompt_scores_; }
  /// Of the last tile's rows, [B * cache heads]: entries attended (own row included), entries cut after the row.
  [[nodiscard]] const std::vector<std::int32_t>& resident() const { return resident_; }
  [[nodiscard]] const std::vector<std::int32_t>& evicted() const { return evicted_; }
  /// [cache head] [B, T] resident after each row's cut; only when recorded.
  [[nodiscard]] const std::vector<std::vector<std::uint8_t>>& resident_rows() const { return resident_rows_; }

 private:
  void cut();
  [[nodiscard]] bool due(std::int64_t decoded) const;

  const policies::Policy& policy_;
  policies::Budget budget_;
  const LayerData& layer_;
  LayerCache cache_;
  std::unique_ptr<policies::Scorer> scorer_;
  std::vector<std::vector<std::int32_t>> prompt_kept_;
  std::vector<std::vector<float>> prompt_scores_;
  std::vector<std::int32_t> resident_, evicted_;
  std::vector<std::vector<std::uint8_t>> resident_rows_;
};

}  // namespace evictsim::sim
