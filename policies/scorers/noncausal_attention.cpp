#include <algorithm>

#include "policies/compactor_terms.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class NoncausalAttention : public Scorer {
 public:
  explicit NoncausalAttention(const Parameters& parameters) : chunk_(parameters.integer("chunk")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const HeadRows rows = noncausal_attention_scores(cache, {}, chunk_);
    for (int head = 0; head < cache.heads(); ++head) {
      std::ranges::transform(rows[static_cast<std::size_t>(head)], scores.of(head).begin(),
                             [](double value) { return static_cast<float>(value); });
    }
  }
  [[nodiscard]] Needs needs() const override { return {.all_queries = true}; }

 private:
  Index chunk_;
};

const Registration registration(
    {.name = "noncausal_attention",
     .sentence = "Keeps what the tokens of its chunk attend to, earlier ones included, weighted by value norm.",
     .citation = "Compactor, arXiv 2507.08143; kvpress 0.5.5 NonCausalAttnPress",
     .parameters = {integer_parameter("chunk", "256", 1, 65536, "entries that attend to each other")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<NoncausalAttention>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "NonCausalAttnPress",
                               .part = "noncausal_attention",
                               .arguments = {compression_ratio_argument,
                                             {"chunk_size", PressValue::integer, "256", "chunk"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "noncausal_attention", .arguments = {"chunk=" + given["chunk_size"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies
