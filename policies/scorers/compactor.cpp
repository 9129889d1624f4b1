#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/compactor_terms.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Leverage of keys blended with attention inside chunks; the ends score as much as the best of the layer.
class Compactor : public Scorer {
 public:
  explicit Compactor(const Parameters& parameters)
      : sketch_(parameters),
        places_{.skip_first = parameters.integer("sinks"), .skip_last = parameters.integer("recent")},
        chunk_(parameters.integer("chunk")),
        blending_(parameters.optional_real("blending")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const HeadRows leverage = leverage_scores(cache, places_, sketch_);
    const HeadRows attention = noncausal_attention_scores(cache, places_, chunk_);
    const double blending = blending_.value_or(1.0 - share_of(budget));
    bool any = false;
    float highest = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      const auto place = static_cast<std::size_t>(head);
      const Index first = places_.of(std::ssize(cache.entries(head))).first;
      for (std::size_t i = 0; i < leverage[place].size(); ++i) {
        const auto score = static_cast<float>(blending * leverage[place][i] + attention[place][i]);
        scores.of(head)[static_cast<std::size_t>(first) + i] = score;
        highest = any ? std::max(highest, score) : score;
        any = true;
      }
    }
    for (int head = 0; head < cache.heads(); ++head) {
      const std::span<float> row = scores.of(head);
      const auto [first, last] = places_.of(std::ssize(row));
      std::fill(row.begin(), row.begin() + first, highest);
      std::fill(row.begin() + last, row.end(), highest);
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return !blending_.has_value(); }
  [[nodiscard]] Needs needs() const override { return {.all_queries = true}; }

 private:
  Sketch sketch_;
  Places places_;
  Index chunk_;
  std::optional<double> blending_;
};

const Registration registration(
    {.name = "compactor",
     .sentence = "Keeps keys that stand out and what the tokens around attend to, with first and last tokens.",
     .citation = "Compactor, arXiv 2507.08143; kvpress 0.5.5 CompactorPress",
     .parameters = {integer_parameter("sinks", "8", 0, 1e9, "first entries, which score as the layer's best"),
                    integer_parameter("recent", "4", 0, 1e9, "last entries, which score so too"),
                    integer_parameter("chunk", "256", 1, 65536, "entries that attend to each other"),
                    or_auto(real_parameter("blending", "auto", 0, 1e6,
                                           "weight of the leverage; auto: the share removed")),
                    Sketch::dimension_parameter(), Sketch::file_parameter()},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Compactor>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "CompactorPress",
                               .part = "compactor",
                               .arguments = {compression_ratio_argument,
                                             {"sink_size_start", PressValue::integer, "8", "sinks"},
                                             {"sink_size_end", PressValue::integer, "4", "recent"},
                                             {"chunk_size", PressValue::integer, "256", "chunk"},
                                             {"sketch_dimension", PressValue::integer, "48", "sketch"},
                                             {"blending", PressValue::optional_number, "None", "blending"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 const std::string blending = given["blending"].empty() ? "auto" : given["blending"];
                                 return {.name = "compactor",
                                         .arguments = {"sinks=" + given["sink_size_start"],
                                                       "recent=" + given["sink_size_end"],
                                                       "chunk=" + given["chunk_size"], "blending=" + blending,
                                                       "sketch=" + given["sketch_dimension"], "phi=''"}};
                               }});

}  // namespace
}  // namespace evictsim::policies
