#include <algorithm>
#include <map>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "policies/subset_view.h"

namespace evictsim::policies {
namespace {

/// Scores a token once, among the tokens that arrived with it: the prompt together, every later one by itself.
class AtArrival : public OuterScorer {
 public:
  using OuterScorer::OuterScorer;

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    arrived_.resize(static_cast<std::size_t>(cache.heads()));
    if (seen_ == 0) {
      LayerScores whole(cache);
      inner().score(cache, budget, whole);
      remember(cache, whole, 0);
    }
    for (Index row = std::max(seen_, cache.prompt_length()); seen_ > 0 && row < cache.seen(); ++row) {
      const SubsetView alone(cache, row, row + 1);
      LayerScores one(alone);
      inner().score(alone, budget_of(1.0, 1), one);
      remember(alone, one, row);
    }
    seen_ = cache.seen();
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        scores.of(head)[i] = arrived_[static_cast<std::size_t>(head)][static_cast<std::size_t>(entries[i])];
      }
    }
  }

  /// The scorer inside never sees a row while it is decoded.
  void begin_decode(const CacheView&) override {}
  void observe(const StepView&) override {}
  [[nodiscard]] Needs needs() const override { return needs_of_parts(inner().needs()); }

 private:
  void remember(const CacheView& cache, const LayerScores& scores, Index first_row) {
    for (int head = 0; head < cache.heads(); ++head) {
      std::vector<float>& arrived = arrived_[static_cast<std::size_t>(head)];
      const auto entries = cache.entries(head);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const auto row = static_cast<std::size_t>(first_row + entries[i]);
        if (arrived.size() <= row) arrived.resize(row + 1, 0.0F);
        arrived[row] = scores.of(head)[i];
      }
    }
  }

  Index seen_ = 0;                           ///< tokens scored; 0 before the prompt's cut
  std::vector<std::vector<float>> arrived_;  ///< [cache head][row]
};

const Registration registration({.name = "at_arrival",
                                 .sentence = "Scores every token once, when it arrives, by another policy's scores.",
                                 .citation = "DMS, arXiv 2506.05345 (the idea); kvpress 0.5.5 DMSPress",
                                 .parameters = {},
                                 .make = MakeOuterScorer([](const Parameters&, std::unique_ptr<Scorer> inner) {
                                   return std::make_unique<AtArrival>(std::move(inner));
                                 })});

}  // namespace
}  // namespace evictsim::policies
