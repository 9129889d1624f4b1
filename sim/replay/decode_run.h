#pragma once
/// \file
/// One point whose cache changes while decoding, or whose cut entries stay in reach: walks the decode rows of one
/// layer.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "policies/policy.h"
#include "sim/replay/layer_cache.h"
#include "sim/replay/placed_layer.h"
#include "sim/replay/selection.h"

namespace evictsim::sim {

/// What was decided for a point in a layer before it runs.
struct RunPlan {
  std::vector<double> measured = {};  ///< the allocator's numbers of the layer
  std::optional<CutPlan> cuts = {};   ///< of allocators that look at all layers
};

/// The state of one (policy, budget) in one layer, advanced tile by tile.
class DecodeRun {
 public:
  /// Starts with the whole prompt, uncut.
  DecodeRun(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer,
            const PromptFeatures& features, RandomKey key, const policies::FutureView& future, RunPlan plan = {});

  /// Makes the prompt's cut if one is due, and lets the placement begin. To be called once, before `advance`.
  void begin();

  /// Called for row `r` of the tile, which attends what the placement arranged.
  using PlacedHook = std::function<void(Index r, const PlacedRow& placed)>;
  /// What `advance` records besides counts.
  struct Recording {
    bool resident = false, stored = false;
  };
  /// Lets every decode row up to the tile's last one arrive, attend, be observed and cut, in row order.
  void advance(const Tile& tile, Recording recording, const PlacedHook& placed = {});

  // The steps of the above, for runs that go through all layers at once.
  void arrive(std::int32_t row, const PlacedHook& placed = {}, Index r = -1);
  /// Whether the policy's own schedule (or its plan) cuts now.
  [[nodiscard]] bool due() const;
  [[nodiscard]] policies::ScheduleState state() const { return schedule_state(cache_, budget_); }
  /// Scores of the cut at hand, and what the allocator is asked.
  struct PendingCut {
    policies::LayerScores scores;
    policies::CutBudget budget;
  };
  [[nodiscard]] PendingCut score();
  [[nodiscard]] policies::AllocationRequest request(const PendingCut& pending) const;
  /// Cuts to the best `counts` per head; null: the allocator decides.
  void cut(const PendingCut& pending, const std::vector<Index>* counts);

  [[nodiscard]] const LayerCache& cache() const { return cache_; }
  [[nodiscard]] bool places() const { return placement_ != nullptr; }
  /// Kept after the prompt: [cache head], ascending rows; and the scores of that cut (empty when nothing was cut).
  [[nodiscard]] const std::vector<std::vector<std::int32_t>>& prompt_kept() const { return prompt_kept_; }
  [[nodiscard]] const std::vector<std::vector<float>>& prompt_scores() const { return prompt_scores_; }
  /// Bytes at rest after the prompt's cut; only with a placement.
  [[nodiscard]] const std::optional<policies::TierBytes>& stored() const { return stored_; }
  /// Of the last tile's rows, [B * cache heads]: entries attended (own row included), entries cut after the row.
  [[nodiscard]] const std::vector<std::int32_t>& resident() const { return resident_; }
  [[nodiscard]] const std::vector<std::int32_t>& evicted() const { return evicted_; }
  /// Of the last tile's rows, [B]; empty without a placement.
  [[nodiscard]] const std::vector<policies::StepTraffic>& traffic() const { return traffic_; }
  /// Bytes at rest after each of them and its cut, [B]; empty without a placement; only when recorded.
  [[nodiscard]] const std::vector<policies::TierBytes>& stored_rows() const { return stored_rows_; }
  /// Cuts made so far, the prompt's included, and the entries scored for them over all heads.
  [[nodiscard]] std::int64_t cuts() const { return cuts_; }
  [[nodiscard]] std::int64_t scored_entries() const { return scored_entries_; }
  /// [cache head] [B, T] resident after each row's cut; only when recorded.
  [[nodiscard]] const std::vector<std::vector<std::uint8_t>>& resident_rows() const { return resident_rows_; }

 private:
  /// Of the cut being made: 0 for the prompt's, then 1, 2, ..., whether the prompt was cut or not.
  [[nodiscard]] std::int64_t cut_number() const;
  [[nodiscard]] const PlannedCut* planned() const;
  void cut_if_due();

  const policies::Policy& policy_;
  policies::Budget budget_;
  const LayerData& layer_;
  RandomKey key_;
  LayerCache cache_;
  std::optional<CutScorer> scorer_;  ///< empty: never cuts
  RunPlan plan_;
  std::unique_ptr<policies::Placement> placement_;
  std::optional<PlacedLayer> placed_;
  std::vector<std::vector<std::int32_t>> prompt_kept_;
  std::vector<std::vector<float>> prompt_scores_;
  std::optional<policies::TierBytes> stored_;
  std::int64_t cuts_ = 0, scored_entries_ = 0;
  std::vector<std::int32_t> resident_, evicted_;
  std::vector<policies::StepTraffic> traffic_;
  std::vector<policies::TierBytes> stored_rows_;
  std::vector<std::vector<std::uint8_t>> resident_rows_;
};

}  // namespace evictsim::sim
