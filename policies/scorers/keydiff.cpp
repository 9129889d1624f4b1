#include <algorithm>

#include "policies/mean_direction.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class KeyDifference : public Scorer {
 public:
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const std::vector<double> cosines = cosines_with_mean_direction(cache.keys(head));
      std::transform(cosines.begin(), cosines.end(), scores.of(head).begin(),
                     [](double cosine) { return static_cast<float>(-cosine); });
    }
  }
};

const Registration registration({.name = "keydiff",
                                 .sentence = "Keeps the keys least like the mean direction of all keys.",
                                 .citation = "KeyDiff, arXiv 2504.15364; kvpress 0.5.5 KeyDiffPress",
                                 .parameters = {},
                                 .make = MakeScorer([](const Parameters&) {
                                   return std::make_unique<KeyDifference>();
                                 }),
                                 .is_policy = true});

const PressRegistration press({.name = "KeyDiffPress",
                               .part = "keydiff",
                               .arguments = {compression_ratio_argument},
                               .map = [](const PressArguments&) -> PolicyText { return {.name = "keydiff"}; }});

}  // namespace
}  // namespace evictsim::policies
