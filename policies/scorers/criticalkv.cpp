#include <algorithm>
#include <limits>

#include "policies/press.h"
#include "policies/projected_values.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Half of the budget goes to the best of the scorer inside, the other half to the best after weighting by what an
/// entry's value writes behind W_O. Raised entries are weighted like any other, as kvpress does.
class CriticalKv : public OuterScorer {
 public:
  CriticalKv(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)),
        first_stage_(parameters.real("first_stage")),
        epsilon_(parameters.real("epsilon")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    LayerScores base(cache);
    inner().score(cache, budget, base);
    auto first_stage = static_cast<Index>(budget.exact_entries * first_stage_);
    if (first_stage_ > 0) first_stage = std::max<Index>(1, first_stage);
    for (int head = 0; head < cache.heads(); ++head) {
      const std::vector<double> sizes = mean_projected_value_norms(cache, head, Norm::l1);
      const std::span<float> row = scores.of(head);
      for (std::size_t i = 0; i < row.size(); ++i) {
        const auto place = static_cast<Index>(i);
        row[i] = static_cast<float>((static_cast<double>(base.of(head)[i]) + epsilon_) * sizes[i]);
        if (base.is_protected(head, place)) scores.protect(head, place);
        if (base.is_dropped(head, place)) scores.drop(head, place);
      }
      for (const std::int32_t place : select_best(base, head, first_stage)) {
        row[static_cast<std::size_t>(place)] = std::numeric_limits<float>::max();
      }
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override { return inner().needs().with({.output_weights = true}); }

 private:
  double first_stage_;
  double epsilon_;
};

const Registration registration(
    {.name = "criticalkv",
     .sentence =
         "Spends half of the budget by another policy's scores, half by those scores times the value behind W_O.",
     .citation = "CriticalKV, arXiv 2502.03805; kvpress 0.5.5 CriticalKVPress",
     .parameters = {real_parameter("first_stage", "0.5", 0, 1, "share of the budget that the plain scores fill"),
                    real_parameter("epsilon", "1e-4", 0, 1e6, "added to the scores before they are weighted")},
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<CriticalKv>(parameters, std::move(inner));
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

const PressRegistration press({.name = "CriticalKVPress",
                               .part = "criticalkv",
                               .arguments = {{"press", PressValue::press, nullptr},
                                             {"epsilon", PressValue::number, "1e-4", "epsilon"},
                                             {"first_stage_ratio", PressValue::number, "0.5", "first_stage"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "criticalkv",
                                         .arguments = {scores_of_press(given, "CriticalKVPress").text(),
                                                       "first_stage=" + given["first_stage_ratio"],
                                                       "epsilon=" + given["epsilon"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies
