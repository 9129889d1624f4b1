#include <algorithm>

#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"
#include "policies/window_logits.h"

namespace evictsim::policies {
namespace {

class GeneratedAttention : public Scorer {
 public:
  explicit GeneratedAttention(const Parameters& parameters)
      : window_(parameters.integer("window")),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)),
        all_heads_(parameters.choice("group") == "all"),
        distinct_(parameters.choice("selectors") == "distinct") {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index window = std::min(window_, cache.seen());
    // By token row: heads may hold different entries.
    std::vector<std::vector<double>> received;
    for (int head = 0; head < cache.heads(); ++head) received.push_back(received_by_row(cache, head, window));
    if (all_heads_) {
      std::vector<double> mean = reduce_group(GroupReduction::mean, received);
      received.assign(received.size(), mean);
    }
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const Index first = count_before(entries, cache.prompt_length());
      const Index last = std::max(first, count_before(entries, cache.seen() - window));
      std::vector<double> row;
      for (Index place = first; place < last; ++place) {
        const auto entry = static_cast<std::size_t>(entries[static_cast<std::size_t>(place)]);
        row.push_back(received[static_cast<std::size_t>(head)][entry]);
      }
      row = pool(pooling_, row, kernel_);
      for (Index place = 0; place < std::ssize(entries); ++place) {
        if (place >= first && place < last) {
          scores.of(head)[static_cast<std::size_t>(place)] =
              static_cast<float>(row[static_cast<std::size_t>(place - first)]);
        } else {
          scores.protect(head, place);
        }
      }
    }
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 private:
  /// What every generated entry before the window receives from the selectors, mean over the head's query heads,
  /// [seen].
  [[nodiscard]] std::vector<double> received_by_row(const CacheView& cache, int head, Index window) const {
    std::vector<double> received(static_cast<std::size_t>(cache.seen()), 0.0);
    const auto entries = cache.entries(head);
    const Index first = count_before(entries, cache.prompt_length());
    const Index count = count_before(entries, cache.seen() - window) - first;
    if (count <= 0) return received;
    const QueryHeads queries = cache.query_heads(head);
    for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
      models::MatrixDouble weights = softmax_over(window_logits(cache, head, query_head, window), first, count);
      if (!distinct_ && window > 1) weights.col(0) = weights.col(window - 1);
      for (Index i = 0; i < count; ++i) {
        const auto entry = static_cast<std::size_t>(entries[static_cast<std::size_t>(first + i)]);
        received[entry] += weights.row(i).sum() / queries.count;
      }
    }
    return received;
  }

  Index window_;
  Index kernel_;
  Pooling pooling_;
  bool all_heads_;
  bool distinct_;
};

const Registration registration(
    {.name = "generated_attention",
     .sentence = "Keeps the prompt, the newest tokens, and of the generated ones those that the newest attend to.",
     .citation = "RPC, arXiv 2505.13866; jiwonsong-dev/ReasoningPathCompression",
     .parameters = generated_attention_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<GeneratedAttention>(parameters); }),
     .default_schedule = "every(prompt=false)"});

}  // namespace
}  // namespace evictsim::policies
