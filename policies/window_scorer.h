#pragma once
/// \file
/// Scorers that judge entries by the last tokens seen, and keep these.

#include <algorithm>
#include <vector>

#include "policies/scorer.h"
#include "policies/scoring.h"

namespace evictsim::policies {

/// The last `window` tokens are protected, what lies before them is scored. A sequence no longer than the window is
/// scored by a window one token shorter than itself, so that something competes.
class WindowScorer : public Scorer {
 public:
  explicit WindowScorer(Index window) : window_(window) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) final {
    const Index window = std::min(window_, cache.seen() - 1);
    for (int head = 0; head < cache.heads(); ++head) {
      const Index candidates = count_before(cache.entries(head), cache.seen() - window);
      for (Index i = candidates; i < std::ssize(scores.of(head)); ++i) scores.protect(head, i);
      if (window == 0 || candidates == 0) continue;
      const std::vector<double> row = score_head(cache, head, window, candidates);
      std::transform(row.begin(), row.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
    }
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 protected:
  /// Scores of the head's first `candidates` entries, by the last `window` tokens; both at least 1.
  [[nodiscard]] virtual std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                                       Index candidates) = 0;

 private:
  Index window_;
};

}  // namespace evictsim::policies
