#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class SinksAndRecent : public Scorer {
 public:
  explicit SinksAndRecent(const Parameters& parameters) : sinks_(parameters.integer("sinks")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const std::span<float> row = scores.of(head);
      const Index count = std::ssize(row);
      // The library's own count, which is not raised to 1 where the budget is.
      const Index pruned = std::max<Index>(0, count - static_cast<Index>(budget.exact_entries));
      const Index first = std::min<Index>(sinks_, count);
      const Index last = std::min<Index>(first + pruned, count);
      std::fill(row.begin(), row.end(), 1.0F);
      std::fill(row.begin() + first, row.begin() + last, 0.0F);
    }
  }
  [[nodiscard]] bool depends_on_budget() const override { return true; }

 private:
  Index sinks_;
};

const Registration registration(
    {.name = "sinks_and_recent",
     .sentence = "Scores 1 for the first entries and as many of the newest as the budget holds, 0 between.",
     .citation = "StreamingLLM, arXiv 2309.17453; kvpress 0.5.5 StreamingLLMPress",
     .parameters = {integer_parameter("sinks", "4", 0, 1e9, "first entries kept")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<SinksAndRecent>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
