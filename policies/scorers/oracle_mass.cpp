#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class OracleMass : public OracleScorer {
 public:
  void score(const CacheView& cache, const CutBudget&, const FutureView& future, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const QueryHeads queries = cache.query_heads(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        double mass = 0;
        for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
          mass += future.future_mass(query_head)[static_cast<std::size_t>(entries[place])];
        }
        scores.of(head)[place] = static_cast<float>(mass);
      }
    }
  }
};

const Registration registration(
    {.name = "oracle_mass",
     .sentence = "Keeps the prompt entries that will receive most attention from the decode rows evaluated.",
     .citation = "an upper bound on retained mass at equal counts per head; no causal policy can do better",
     .parameters = {},
     .make = MakeOracle([](const Parameters&) { return std::make_unique<OracleMass>(); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
