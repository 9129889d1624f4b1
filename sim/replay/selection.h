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

/// Scores `cache` (finite, or Error(policy_failure)) and applies the protections.
policies::LayerScores score_cache(const policies::Policy& policy, policies::Scorer& scorer, const LayerCache& cache,
                                  const policies::CutBudget& budget);
policies::LayerScores score_cache(const policies::Policy& policy, policies::OracleScorer& scorer,
                                  const LayerCache& cache, const policies::FutureView& future);

/// Splits the budget over the heads and picks each head's best: places in `cache.entries(head)`, ascending.
std::vector<std::vector<std::int32_t>> choose(const policies::Policy& policy, const LayerCache& cache,
                                              const policies::LayerScores& scores, const policies::CutBudget& budget);

/// The scores as a dump stores them: NaN where an entry has none.
std::vector<std::vector<float>> scores_for_dump(const policies::LayerScores& scores);

/// The budget of a cut of `cache` under `budget`.
policies::CutBudget cut_budget(const policies::Budget& budget, const LayerCache& cache);

}  // namespace evictsim::sim
