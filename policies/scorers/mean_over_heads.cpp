#include <map>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Replaces scores by their mean over the heads that hold the token, so that all heads keep the same tokens.
class MeanOverHeads : public OuterScorer {
 public:
  using OuterScorer::OuterScorer;

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    LayerScores base(cache);
    inner().score(cache, budget, base);
    std::map<std::int32_t, Token> tokens;
    for_each_entry(cache, [&](int head, Index place, std::int32_t row) {
      Token& token = tokens[row];
      token.sum += base.of(head)[static_cast<std::size_t>(place)];
      token.holders += 1;
      token.raised = token.raised && base.is_raised(head, place);
      token.is_protected = token.is_protected && base.is_protected(head, place);
      token.dropped = token.dropped && base.is_dropped(head, place);
    });
    for_each_entry(cache, [&](int head, Index place, std::int32_t row) {
      const Token& token = tokens[row];
      const auto mean = static_cast<float>(token.sum / token.holders);
      scores.of(head)[static_cast<std::size_t>(place)] = mean;
      if (token.raised) scores.raise(head, place, mean);
      if (token.is_protected) scores.protect(head, place);
      if (token.dropped) scores.drop(head, place);
    });
  }

 private:
  struct Token {
    double sum = 0;
    double holders = 0;
    bool raised = true;
    bool is_protected = true;
    bool dropped = true;
  };

  template <typename Visit>
  static void for_each_entry(const CacheView& cache, const Visit& visit) {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        visit(head, static_cast<Index>(place), entries[place]);
      }
    }
  }
};

const Registration registration(
    {.name = "mean_over_heads",
     .sentence = "Gives every head the mean of another policy's scores over heads: all keep the same tokens.",
     .citation = "CaM, ICML 2024; kvpress 0.5.5 CAMPress",
     .parameters = {},
     .make = MakeOuterScorer([](const Parameters&, std::unique_ptr<Scorer> inner) {
       return std::make_unique<MeanOverHeads>(std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies
