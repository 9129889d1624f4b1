#include <algorithm>

#include "policies/compactor_terms.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class LeverageScore : public Scorer {
 public:
  explicit LeverageScore(const Parameters& parameters) : sketch_(parameters) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const HeadRows rows = leverage_scores(cache, {}, sketch_);
    for (int head = 0; head < cache.heads(); ++head) {
      std::ranges::transform(rows[static_cast<std::size_t>(head)], scores.of(head).begin(),
                             [](double value) { return static_cast<float>(value); });
    }
  }

 private:
  Sketch sketch_;
};

const Registration registration(
    {.name = "leverage_score",
     .sentence = "Keeps entries whose key before RoPE stands out from the others, by its statistical leverage.",
     .citation = "Compactor, arXiv 2507.08143; kvpress 0.5.5 LeverageScorePress",
     .parameters = {Sketch::dimension_parameter(), Sketch::file_parameter()},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LeverageScore>(parameters); }),
     .is_policy = true});

const PressRegistration press(
    {.name = "LeverageScorePress",
     .part = "leverage_score",
     .arguments = {compression_ratio_argument, {"sketch_dimension", PressValue::integer, "48", "sketch"}},
     .map = [](const PressArguments& given) -> PolicyText {
       return {.name = "leverage_score", .arguments = {"sketch=" + given["sketch_dimension"], "phi=''"}};
     }});

}  // namespace
}  // namespace evictsim::policies
