#pragma once
/// \file
/// Scorers that judge a token once, when it is seen, and keep the newest ones: EpiKV, arXiv 2606.26472, and its
/// variants.

#include <algorithm>
#include <optional>
#include <vector>

#include "policies/scorer.h"
#include "policies/scoring.h"

namespace evictsim::policies {

/// Calls `arrive` for every token in turn, and protects the newest. Cuts must come often enough that a token is
/// resident when it is judged, which holds for every schedule that cuts after a token was seen.
class ArrivalScorer : public Scorer {
 public:
  /// `recent`: newest tokens protected; nothing: 128, at most a quarter of the budget.
  explicit ArrivalScorer(std::optional<std::int64_t> recent) : recent_(recent) {}

  void begin_decode(const CacheView& prompt) override { follow(prompt); }

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) final {
    follow(cache);
    const Index recent = recent_ ? *recent_ : std::min<Index>(most_recent, static_cast<Index>(budget.entries) / 4);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const std::vector<double>& judged = judged_[static_cast<std::size_t>(head)];
      for (std::size_t i = 0; i < entries.size(); ++i) {
        scores.of(head)[i] = static_cast<float>(judged[static_cast<std::size_t>(entries[i])]);
      }
      for (Index i = count_before(entries, cache.seen() - recent); i < std::ssize(entries); ++i) {
        scores.protect(head, i);
      }
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return !recent_; }

 protected:
  /// The score of token row `token` of the layer, for a cache head; every head in turn, then the next token.
  [[nodiscard]] virtual double arrive(const CacheView& cache, int head, Index token) = 0;

 private:
  static constexpr Index most_recent = 128;

  void follow(const CacheView& cache) {
    judged_.resize(static_cast<std::size_t>(cache.heads()));
    for (auto token = static_cast<Index>(judged_.front().size()); token < cache.seen(); ++token) {
      for (int head = 0; head < cache.heads(); ++head) {
        judged_[static_cast<std::size_t>(head)].push_back(arrive(cache, head, token));
      }
    }
  }

  std::optional<std::int64_t> recent_;
  std::vector<std::vector<double>> judged_;  ///< [head][seen]
};

}  // namespace evictsim::policies
