#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/projected_values.h"
#include "policies/registry.h"
#include "policies/seats.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Ada-KV splits the layer's budget over its heads; each head then spends its part in two stages. Scores stay those of
/// the scorer inside, and what no stage takes is dropped.
class CriticalHeads : public OuterScorer {
 public:
  CriticalHeads(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)),
        alpha_(parameters.real("alpha")),
        first_stage_(parameters.real("first_stage")),
        epsilon_(parameters.real("epsilon")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    inner().score(cache, budget, scores);
    std::vector<Index> counts(static_cast<std::size_t>(cache.heads()), static_cast<Index>(budget.entries));
    share_with_safeguard(scores, alpha_, counts);
    auto safe = static_cast<Index>(static_cast<double>(budget.entries) * alpha_);
    if (alpha_ > 0) safe = std::max<Index>(safe, 1);
    for (int head = 0; head < cache.heads(); ++head) {
      const Index count = counts[static_cast<std::size_t>(head)];
      const auto by_score = static_cast<Index>(static_cast<double>(count) * first_stage_);
      drop_all_but(scores, head, two_stages(cache, scores, head, std::max(safe, by_score), count));
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override { return inner().needs().with({.output_weights = true}); }

 private:
  /// Places of the best `first` by score and, for the rest of `count`, the best by weighted score; ascending.
  [[nodiscard]] std::vector<std::int32_t> two_stages(const CacheView& cache, const LayerScores& scores, int head,
                                                     Index first, Index count) const {
    const std::vector<std::int32_t> ranking = rank_entries(scores, head);
    const std::vector<double> sizes = mean_projected_value_norms(cache, head, Norm::l1);
    const auto stage = ranking.begin() + std::clamp<Index>(std::min(first, count), 0, std::ssize(ranking));
    std::vector<std::int32_t> kept(ranking.begin(), stage);
    std::vector<std::int32_t> rest(stage, ranking.end());
    const auto weighted = [&](std::int32_t place) {
      const auto i = static_cast<std::size_t>(place);
      return static_cast<float>((static_cast<double>(scores.of(head)[i]) + epsilon_) * sizes[i]);
    };
    std::stable_sort(rest.begin(), rest.end(), [&](std::int32_t a, std::int32_t b) {
      const bool a_safe = scores.is_protected(head, a);
      const bool b_safe = scores.is_protected(head, b);
      return a_safe != b_safe ? a_safe : weighted(a) > weighted(b);
    });
    const auto seats = std::clamp<Index>(count - std::ssize(kept), 0, std::ssize(rest));
    kept.insert(kept.end(), rest.begin(), rest.begin() + seats);
    std::sort(kept.begin(), kept.end());
    return kept;
  }

  double alpha_;
  double first_stage_;
  double epsilon_;
};

const Registration registration(
    {.name = "critical_heads",
     .sentence = "Lets heads compete as Ada-KV does, then fills each head's part in CriticalKV's two stages.",
     .citation = "CriticalKV, arXiv 2502.03805; kvpress 0.5.5 CriticalAdaKVPress",
     .parameters = critical_head_parameters(),
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<CriticalHeads>(parameters, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies
