#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Attention from the question, each of its tokens weighted by how many entries it could attend to. A window that
/// leaves nothing to compete is one token shorter than the sequence.
class FinchAttention : public Scorer {
 public:
  explicit FinchAttention(const Parameters& parameters)
      : window_(parameters.optional_integer("window")),
        normalize_(parameters.boolean("normalize")),
        chunk_(parameters.integer("chunk")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const Index window = std::min(window_length(cache), cache.seen() - 1);
    const Index window_begin = cache.seen() - window;
    for (int head = 0; head < cache.heads(); ++head) {
      const Index candidates = count_before(cache.entries(head), window_begin);
      if (window == 0 || candidates == 0) continue;
      const std::vector<double> row = score_head(cache, head, window, candidates);
      std::transform(row.begin(), row.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
    }
    const float raised = raised_score(scores);
    for (int head = 0; head < cache.heads(); ++head) {
      for (Index i = count_before(cache.entries(head), window_begin); i < std::ssize(scores.of(head)); ++i) {
        scores.raise(head, i, raised);
      }
    }
    if (chunk_ > 0) keep_best_of_chunks(share_of(budget), scores);
  }

  [[nodiscard]] bool depends_on_budget() const override { return chunk_ > 0; }
  [[nodiscard]] Needs needs() const override {
    if (window_) return {.window_queries = *window_};
    return {.all_queries = true, .spans = {"question"}};
  }

 private:
  /// From the first token of the last question annotated to the newest.
  [[nodiscard]] Index window_length(const CacheView& cache) const {
    if (window_) return *window_;
    Index first = cache.seen();
    for (const traces::Span& question : cache.spans("question")) {
      if (question.first < cache.prompt_length()) first = question.first;
    }
    return cache.seen() - first;
  }

  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window, Index candidates) const {
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

  std::optional<Index> window_;
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
