#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Recency : public Scorer {
 public:
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        scores.of(head)[place] = static_cast<float>(entries[place]);
      }
    }
  }
};

const Registration registration(
    {.name = "recency",
     .sentence = "Keeps the newest entries: the score is the token's place in the sequence.",
     .citation = "sliding-window attention, Longformer, arXiv 2004.05150",
     .parameters = {},
     .make = MakeScorer([](const Parameters&) { return std::make_unique<Recency>(); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies
