// Policies that break their contract, each in one way.
#include <limits>
#include <memory>
#include <stdexcept>

#include "policies/plugin.h"
#include "policies/registry.h"
#include "traces/error.h"

EVICTSIM_PLUGIN

namespace {

using namespace evictsim::policies;

using Fault = void (*)(const CacheView&, LayerScores&);

class Faulty : public Scorer {
 public:
  explicit Faulty(Fault fault) : fault_(fault) {}
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override { fault_(cache, scores); }

 private:
  Fault fault_;
};

Part faulty(const char* name, Fault fault) {
  return {.name = name,
          .sentence = "Breaks its contract.",
          .citation = "an example",
          .parameters = {},
          .make = MakeScorer([fault](const Parameters&) { return std::make_unique<Faulty>(fault); }),
          .is_policy = true};
}

const Registration throwing(faulty("faulty_throws", [](const CacheView&, LayerScores&) {
  throw std::runtime_error("the plug-in gave up");
}));
const Registration failing(faulty("faulty_error", [](const CacheView&, LayerScores&) {
  throw evictsim::Error(evictsim::ErrorCode::policy_failure, "the plug-in says what is wrong");
}));
const Registration infinite(faulty("faulty_nan", [](const CacheView&, LayerScores& scores) {
  scores.of(0)[0] = std::numeric_limits<float>::quiet_NaN();
}));
const Registration few(faulty("faulty_few", [](const CacheView&, LayerScores& scores) { scores = LayerScores(); }));
const Registration foreign(faulty("faulty_entry", [](const CacheView& cache, LayerScores& scores) {
  scores.protect(0, static_cast<Index>(cache.entries(0).size()));
}));

}  // namespace
