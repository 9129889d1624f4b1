// A policy as a plug-in: the file of a scorer, and the line that makes the shared object a plug-in.
#include <cmath>
#include <memory>

#include "policies/plugin.h"
#include "policies/registry.h"

EVICTSIM_PLUGIN

namespace {

using namespace evictsim::policies;

class ValueNorm : public Scorer {
 public:
  explicit ValueNorm(const Parameters& parameters) : power_(parameters.real("power")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const evictsim::models::MatrixView values = cache.values(head);
      for (Index i = 0; i < values.rows(); ++i) {
        const double norm = values.row(i).cast<double>().norm();
        scores.of(head)[static_cast<std::size_t>(i)] = static_cast<float>(std::pow(norm, power_));
      }
    }
  }

 private:
  double power_;
};

const Registration registration({.name = "value_norm",
                                 .sentence = "Keeps the values of largest norm.",
                                 .citation = "an example",
                                 .parameters = {real_parameter("power", "1", -10, 10, "of the norm")},
                                 .make = MakeScorer([](const Parameters& parameters) {
                                   return std::make_unique<ValueNorm>(parameters);
                                 }),
                                 .is_policy = true});

}  // namespace
