#include <vector>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

class LastAttention : public Scorer {
 public:
  explicit LastAttention(const Parameters& parameters) : raise_newest_(parameters.choice("newest") == "raised") {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    // Heads may hold different entries, so the mean over heads is taken per token row.
    std::vector<double> received(static_cast<std::size_t>(cache.seen()), 0.0);
    int query_heads = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const QueryHeads queries = cache.query_heads(head);
      query_heads += queries.count;
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        const models::MatrixView attention = cache.window_attention(query_head, 1);
        for (std::size_t place = 0; place < entries.size(); ++place) {
          received[static_cast<std::size_t>(entries[place])] += attention(static_cast<Index>(place), 0);
        }
      }
    }
    const auto newest = static_cast<std::int32_t>(cache.seen() - 1);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        if (raise_newest_ && entries[place] == newest) continue;
        scores.of(head)[place] = static_cast<float>(received[static_cast<std::size_t>(entries[place])] / query_heads);
      }
    }
    if (!raise_newest_) return;
    const float raised = raised_score(scores);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      if (!entries.empty() && entries.back() == newest) scores.raise(head, std::ssize(entries) - 1, raised);
    }
  }

  [[nodiscard]] std::vector<std::vector<double>> attention_of_score(const CacheView& cache) override {
    std::vector<std::vector<double>> attention;
    for (int query_head = 0; query_head < cache.geometry().num_query_heads; ++query_head) {
      const models::MatrixView last = cache.window_attention(query_head, 1);
      attention.emplace_back(last.col(0).begin(), last.col(0).end());
    }
    return attention;
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = 1}; }

 private:
  bool raise_newest_;
};

const Registration registration(
    {.name = "last_attention",
     .sentence = "Keeps what the last token attends to, as a mean over all heads of the layer.",
     .citation = "TOVA, arXiv 2401.06104; kvpress 0.5.5 TOVAPress",
     .parameters = {choice_parameter("newest", {"competes", "raised"},
                                     "the last token itself: by its own attention, or the layer's largest score + 1")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LastAttention>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
