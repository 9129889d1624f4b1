#include "sim/replay/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

void check_finite(const policies::Policy& policy, const policies::LayerScores& scores, const LayerCache& cache) {
  for (int head = 0; head < scores.heads(); ++head) {
    const auto values = scores.of(head);
    if (values.size() != cache.entries(head).size()) {
      throw Error(ErrorCode::policy_failure, "a scorer must score every resident entry",
                  {.parameter = policy.name, .value = std::to_string(values.size()) + " scores"});
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw Error(ErrorCode::policy_failure,
                  "scores must be finite; layer " + std::to_string(cache.layer()) + ", head " + std::to_string(head) +
                      ", entry " + std::to_string(cache.entries(head)[i]),
                  {.parameter = policy.name, .value = std::to_string(values[i])});
    }
  }
}

policies::LayerScores checked(const policies::Policy& policy, policies::LayerScores scores, const LayerCache& cache) {
  check_finite(policy, scores, cache);
  for (const auto& protection : policy.protections) protection->protect(cache, scores);
  return scores;
}

}  // namespace

bool cuts_while_decoding(const policies::Policy& policy) {
  return !policy.never_cuts() && !policy.is_oracle() && policy.schedule->cuts_while_decoding();
}

policies::LayerScores score_cache(const policies::Policy& policy, policies::Scorer& scorer, const LayerCache& cache,
                                  const policies::CutBudget& budget) {
  policies::LayerScores scores(cache);
  scorer.score(cache, budget, scores);
  return checked(policy, std::move(scores), cache);
}

policies::LayerScores score_cache(const policies::Policy& policy, policies::OracleScorer& scorer,
                                  const LayerCache& cache, const policies::FutureView& future) {
  policies::LayerScores scores(cache);
  scorer.score(cache, future, scores);
  return checked(policy, std::move(scores), cache);
}

std::vector<std::vector<std::int32_t>> choose(const policies::Policy& policy, const LayerCache& cache,
                                              const policies::LayerScores& scores, const policies::CutBudget& budget) {
  std::vector<Index> counts(static_cast<std::size_t>(cache.heads()), 0);
  policy.allocator->allocate(
      {.budget = budget, .layer = cache.layer(), .num_layers = cache.geometry().num_layers, .scores = &scores}, counts);
  std::vector<std::vector<std::int32_t>> places;
  places.reserve(counts.size());
  for (int head = 0; head < cache.heads(); ++head) {
    const auto size = static_cast<Index>(cache.entries(head).size());
    places.push_back(
        policies::select_best(scores, head, std::clamp<Index>(counts[static_cast<std::size_t>(head)], 0, size)));
  }
  return places;
}

std::vector<std::vector<float>> scores_for_dump(const policies::LayerScores& scores) {
  std::vector<std::vector<float>> dump;
  for (int head = 0; head < scores.heads(); ++head) {
    const auto values = scores.of(head);
    dump.emplace_back(values.begin(), values.end());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (scores.is_protected(head, static_cast<Index>(i))) dump.back()[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  return dump;
}

policies::CutBudget cut_budget(const policies::Budget& budget, const LayerCache& cache) {
  const Index cached = cache.longest();
  const auto entries = budget.entries(cache.prompt_length());
  // After the prompt a share is real-valued for allocators that split before they truncate (kvpress' PyramidKV).
  const bool share_of_prompt = !budget.in_entries() && cache.seen() == cache.prompt_length();
  return {
      .cached = cached,
      .entries = entries,
      .exact_entries = share_of_prompt ? static_cast<double>(cached) * budget.value() : static_cast<double>(entries)};
}

}  // namespace evictsim::sim
