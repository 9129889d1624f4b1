#pragma once
/// \file
/// Scorers that judge entries by the last tokens seen, and keep these.

#include <algorithm>
#include <vector>

#include "policies/scorer.h"
#include "policies/scoring.h"

namespace evictsim::policies {

/// How the window's own entries are kept: beside the scored ones, or as kvpress does, by the layer's largest score + 1.
enum class WindowEntries { protect, raise };

/// The last `window` tokens are kept, what lies before them is scored. A sequence no longer than the window is scored
/// by a window one token shorter than itself, so that something competes.
class WindowScorer : public Scorer {
 public:
  explicit WindowScorer(Index window, WindowEntries entries = WindowEntries::protect)
      : window_(window), entries_(entries) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index window = window_of(cache);
    for (int head = 0; head < cache.heads(); ++head) {
      const Index candidates = count_before(cache.entries(head), cache.seen() - window);
      if (window == 0 || candidates == 0) continue;
      const std::vector<double> row = score_head(cache, head, window, candidates);
      std::transform(row.begin(), row.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
    }
    const float raised = entries_ == WindowEntries::raise ? raised_score(scores) : 0.0F;
    for (int head = 0; head < cache.heads(); ++head) {
      for (Index i = count_before(cache.entries(head), cache.seen() - window); i < std::ssize(scores.of(head)); ++i) {
        if (entries_ == WindowEntries::protect) {
          scores.protect(head, i);
        } else {
          scores.raise(head, i, raised);
        }
      }
    }
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 protected:
  /// Tokens of the window at this cut.
  [[nodiscard]] Index window_of(const CacheView& cache) const {
    return std::min(window_length(cache), cache.seen() - 1);
  }
  /// The window asked for, before it is shortened.
  [[nodiscard]] virtual Index window_length(const CacheView& cache) const {
    static_cast<void>(cache);
    return window_;
  }
  /// Scores of the head's first `candidates` entries, by the last `window` tokens; both at least 1.
  [[nodiscard]] virtual std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                                       Index candidates) = 0;

 private:
  Index window_;
  WindowEntries entries_;
};

}  // namespace evictsim::policies
