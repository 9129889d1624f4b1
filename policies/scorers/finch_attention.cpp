#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

/// Attention from the question, each of its tokens weighted by how many entries it could attend to.
class FinchAttention : public WindowScorer {
 public:
  explicit FinchAttention(const Parameters& parameters)
      : WindowScorer(parameters.optional_integer("window").value_or(0), WindowEntries::raise),
        to_question_(!parameters.optional_integer("window")),
        normalize_(parameters.boolean("normalize")),
        chunk_(parameters.integer("chunk")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    WindowScorer::score(cache, budget, scores);
    if (chunk_ > 0) keep_best_of_chunks(share_of(budget), scores);
  }

  [[nodiscard]] bool depends_on_budget() const override { return chunk_ > 0; }
  [[nodiscard]] Needs needs() const override {
    if (!to_question_) return WindowScorer::needs();
    return {.all_queries = true, .spans = {"question"}};
  }

 private:
  /// From the first token of the last question annotated to the newest.
  [[nodiscard]] Index window_length(const CacheView& cache) const override {
    if (!to_question_) return WindowScorer::window_length(cache);
    Index first = cache.seen();
    for (const traces::Span& question : cache.spans("question")) {
      if (question.first < cache.prompt_length()) first = question.first;
    }
    return cache.seen() - first;
  }

  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads queries = cache.query_heads(head);
    const auto cached = static_cast<double>(cache.entries(head).size());
    std::vector<double> row(static_cast<std::size_t>(candidates), 0.0);
    for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
      const models::MatrixView attention = cache.window_attention(query_head, window);
      for (Index r = 0; r < window; ++r) {
        // Entries before the token in a cache that holds the window whole, as kvpress counts.
        const double weight = normalize_ ? cached - static_cast<double>(window - r) : 1.0;
        for (Index i = 0; i < candidates; ++i) row[static_cast<std::size_t>(i)] += weight * attention(i, r);
      }
    }
    for (double& value : row) value /= static_cast<double>(window * queries.count);
    return row;
  }

  /// Every chunk keeps its share by itself; the rest is dropped.
  void keep_best_of_chunks(double share, LayerScores& scores) const {
    for (int head = 0; head < scores.heads(); ++head) {
      const std::vector<std::int32_t> ranking = rank_entries(scores, head);
      const auto count = static_cast<Index>(ranking.size());
      std::vector<Index> left;
      for (Index first = 0; first < count; first += chunk_) {
        left.push_back(budget_of(share, std::min(chunk_, count - first)).entries);
      }
      for (const std::int32_t place : ranking) {
        Index& seats = left[static_cast<std::size_t>(place / chunk_)];
        if (seats > 0) {
          --seats;
        } else {
          scores.drop(head, place);
        }
      }
    }
  }

  bool to_question_;  ///< the window begins at the question
  bool normalize_;
  Index chunk_;
};

const Registration registration(
    {.name = "finch_attention",
     .sentence = "Scores by the question's attention, as a whole or with a share for every chunk of the context.",
     .citation = "FINCH, TACL 2024 (10.1162/tacl_a_00716); kvpress 0.5.5 FinchPress",
     .parameters = finch_attention_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<FinchAttention>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
