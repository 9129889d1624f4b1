// A plug-in whose policy has the name of one that exists.
#include <memory>

#include "policies/plugin.h"
#include "policies/registry.h"

EVICTSIM_PLUGIN

namespace {

using namespace evictsim::policies;

class Newest : public Scorer {
 public:
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) scores.of(head).back() = 1;
  }
};

const Registration registration({.name = "snapkv",
                                 .sentence = "Has the name of another.",
                                 .citation = "an example",
                                 .parameters = {},
                                 .make = MakeScorer([](const Parameters&) { return std::make_unique<Newest>(); }),
                                 .is_policy = true});

}  // namespace
