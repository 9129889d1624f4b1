#include "sim/replay/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

void check_finite(const policies::Policy& policy, const policies::LayerScores& scores, const LayerCache& cache) {
  if (scores.heads() != cache.heads()) {
    throw Error(ErrorCode::policy_failure, "a scorer must score every cache head",
                {.parameter = policy.name, .value = std::to_string(scores.heads()) + " heads"});
  }
  for (int head = 0; head < scores.heads(); ++head) {
    const auto values = scores.of(head);
    if (values.size() != cache.entries(head).size()) {
      throw Error(ErrorCode::policy_failure, "a scorer must score every resident entry",
                  {.parameter = policy.name, .value = std::to_string(values.size()) + " scores"});
    }
    // One number that is finite only if all are: 0 times infinity or NaN is NaN.
    if (std::isfinite((0.0F * Eigen::Map<const Eigen::VectorXf>(values.data(), std::ssize(values))).sum())) continue;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw Error(ErrorCode::policy_failure,
                  "scores must be finite; layer " + std::to_string(cache.layer()) + ", head " + std::to_string(head) +
                      ", entry " + std::to_string(cache.entries(head)[i]),
                  {.parameter = policy.name, .value = std::to_string(values[i])});
    }
  }
}

}  // namespace

bool cuts_while_decoding(const policies::Policy& policy) {
  return !policy.never_cuts() && policy.schedule->cuts_while_decoding();
}

policies::Needs needs_of(const policies::Policy& policy) {
  policies::Needs needs = policy.needs;
  const bool walks = cuts_while_decoding(policy);
  if (walks && needs.window_queries > 0) needs.decode_attention = true;
  if (!walks) needs.decode_attention = false;
  return needs;
}

bool cuts_nothing(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer) {
  if (layer.sliding_window() > 0 || policy.never_cuts()) return true;
  return budget.unlimited() && !policy.allocator->ignores_budget();
}

bool stays_whole(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer) {
  if (layer.sliding_window() > 0) return true;
  if (!cuts_nothing(policy, budget, layer)) return false;
  return !policy.places() || (budget.unlimited() && !policy.places_at_any_budget);
}

CutScorer::CutScorer(const policies::Policy& policy, const policies::FutureView& future)
    : policy_(policy), future_(future) {
  if (policy.make_scorer) scorer_ = policy.make_scorer();
  if (policy.make_oracle) oracle_ = policy.make_oracle();
}

void CutScorer::begin_decode(const LayerCache& prompt) {
  if (scorer_) scorer_->begin_decode(prompt);
}

void CutScorer::observe(const policies::StepView& step) {
  if (scorer_) scorer_->observe(step);
}

bool CutScorer::depends_on_budget() const {
  return scorer_ ? scorer_->depends_on_budget() : oracle_->depends_on_budget();
}

policies::LayerScores CutScorer::score(const LayerCache& cache, const policies::CutBudget& budget) {
  policies::LayerScores scores(cache);
  if (scorer_) {
    scorer_->score(cache, budget, scores);
  } else {
    oracle_->score(cache, budget, future_, scores);
  }
  check_finite(policy_, scores, cache);
  for (const auto& protection : policy_.protections) protection->protect(cache, scores);
  return scores;
}

policies::AllocationRequest allocation_request(const LayerCache& cache, const policies::LayerScores& scores,
                                               const policies::CutBudget& budget, const CutContext& context) {
  return {.budget = budget,
          .layer = cache.layer(),
          .num_layers = cache.geometry().num_layers,
          .scores = &scores,
          .cut = context.cut,
          .prompt_length = cache.prompt_length(),
          .seen = cache.seen(),
          .measured = context.measured};
}

std::vector<std::vector<std::int32_t>> choose(const policies::Policy& policy, const LayerCache& cache,
                                              const policies::LayerScores& scores, const policies::CutBudget& budget,
                                              const CutContext& context) {
  std::vector<Index> counts(static_cast<std::size_t>(cache.heads()), 0);
  if (context.planned != nullptr) {
    counts = *context.planned;
  } else {
    policy.allocator->allocate(allocation_request(cache, scores, budget, context), counts);
  }
  std::vector<std::vector<std::int32_t>> places;
  places.reserve(counts.size());
  for (int head = 0; head < cache.heads(); ++head) {
    const Index most = static_cast<Index>(cache.entries(head).size()) - scores.dropped_count(head);
    places.push_back(
        policies::select_best(scores, head, std::clamp<Index>(counts[static_cast<std::size_t>(head)], 0, most)));
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
      .exact_entries = share_of_prompt ? static_cast<double>(cached) * budget.value() : static_cast<double>(entries),
      .share = share_of_prompt ? budget.value() : 0.0};
}

policies::ScheduleState schedule_state(const LayerCache& cache, const policies::Budget& budget) {
  std::int64_t total = 0;
  for (int head = 0; head < cache.heads(); ++head) total += std::ssize(cache.entries(head));
  return {.decoded = cache.seen() - cache.prompt_length(),
          .row = cache.seen() - 1,
          .resident = cache.longest(),
          .entries = budget.entries(cache.prompt_length()),
          .total = total,
          .heads = cache.heads()};
}

}  // namespace evictsim::sim
