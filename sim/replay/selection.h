#pragma once
/// \file
/// Scoring and cutting: the questions that the engine asks a policy, and the checks on its answers.

#include <memory>
#include <span>
#include <vector>

#include "policies/policy.h"
#include "sim/replay/layer_cache.h"

namespace evictsim::sim {

/// Whether the policy runs per budget along the decode rows; if not, it ranks once.
bool cuts_while_decoding(const policies::Policy& policy);

/// Needs of a policy including what its schedule adds.
policies::Needs needs_of(const policies::Policy& policy);

/// Whether no entry of `layer` is ever cut under a policy and budget.
bool cuts_nothing(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer);

/// Whether `layer` stays whole under a policy and budget: nothing to cut and no placement that changes the whole
/// cache, or a sliding window, which engines leave alone.
bool stays_whole(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer);

/// Counts of one cut of one layer that were decided together with those of other layers.
struct PlannedCut {
  Index seen = 0;             ///< tokens seen at the cut
  std::vector<Index> counts;  ///< [cache head]
  bool operator==(const PlannedCut&) const = default;
};

/// The planned cuts of one point in one layer, in row order.
using CutPlan = std::vector<PlannedCut>;

/// Which cut of a layer is made, and what is known of it beforehand.
struct CutContext {
  std::int64_t cut = 0;                         ///< 0: the prompt's
  std::span<const double> measured = {};        ///< the allocator's numbers of the layer
  const std::vector<Index>* planned = nullptr;  ///< counts decided over all layers; null: the allocator is asked
};

/// Makes the scorer or oracle of a policy and asks it; `future` is for oracles.
class CutScorer {
 public:
  /// `policy` must cut (not never_cuts).
  CutScorer(const policies::Policy& policy, const policies::FutureView& future);

  void begin_decode(const LayerCache& prompt);
  void observe(const policies::StepView& step);
  [[nodiscard]] bool depends_on_budget() const;
  /// Scores `cache` (finite, or Error(policy_failure)) and applies the protections.
  [[nodiscard]] policies::LayerScores score(const LayerCache& cache, const policies::CutBudget& budget);

 private:
  const policies::Policy& policy_;
  const policies::FutureView& future_;
  std::unique_ptr<policies::Scorer> scorer_;
  std::unique_ptr<policies::OracleScorer> oracle_;
};

/// What the allocator is asked for one cut of one layer.
policies::AllocationRequest allocation_request(const LayerCache& cache, const policies::LayerScores& scores,
                                               const policies::CutBudget& budget, const CutContext& context);

/// Splits the budget over the heads and picks each head's best: places in `cache.entries(head)`, ascending.
std::vector<std::vector<std::int32_t>> choose(const policies::Policy& policy, const LayerCache& cache,
                                              const policies::LayerScores& scores, const policies::CutBudget& budget,
                                              const CutContext& context);

/// The scores as a dump stores them: NaN where an entry has none.
std::vector<std::vector<float>> scores_for_dump(const policies::LayerScores& scores);

/// The budget of a cut of `cache` under `budget`.
policies::CutBudget cut_budget(const policies::Budget& budget, const LayerCache& cache);

/// Where a layer stands, for the policy's schedule.
policies::ScheduleState schedule_state(const LayerCache& cache, const policies::Budget& budget);

}  // namespace evictsim::sim
