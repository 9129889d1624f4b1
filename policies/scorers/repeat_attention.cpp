#include <algorithm>

#include "policies/projected_values.h"
#include "policies/registry.h"
#include "policies/second_pass.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// The most attention that an entry receives while the model repeats its chunk of the context.
class RepeatAttention : public Scorer {
 public:
  explicit RepeatAttention(const Parameters& parameters)
      : plus_(parameters.boolean("plus")), sinks_(parameters.integer("sinks")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const std::span<float> row = scores.of(head);
      const QueryHeads group = cache.query_heads(head);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        std::vector<double> highest = second_pass_attention(cache, head, query_head, sinks_).highest;
        if (plus_) {
          const std::vector<double> sizes = projected_value_norms(cache, head, query_head, Norm::l2);
          for (std::size_t i = 0; i < highest.size(); ++i) highest[i] *= sizes[i];
        }
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = std::max(row[i], static_cast<float>(highest[i]));
      }
      for (Index i = 0; i < std::ssize(row) && cache.entries(head)[static_cast<std::size_t>(i)] < sinks_; ++i) {
        scores.protect(head, i);
      }
    }
  }
  [[nodiscard]] Needs needs() const override { return {.output_weights = plus_, .second_pass = true}; }

 private:
  bool plus_;
  Index sinks_;
};

const Registration registration(
    {.name = "repeat_attention",
     .sentence = "Scores by the most attention that an entry receives while the model repeats the context.",
     .citation = "KVzip, arXiv 2505.23416; KVzap (KVzip+), arXiv 2601.07891; kvpress 0.5.5 KVzipPress",
     .parameters = repeat_attention_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<RepeatAttention>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
