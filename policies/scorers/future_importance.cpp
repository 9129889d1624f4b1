#include "policies/future_attention.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// For a KV head: what each prompt entry receives from every decode row in the uncut run, the largest over the group's
/// query heads, summed over rows.
class FutureImportance : public OracleScorer {
 public:
  void score(const CacheView& cache, const CutBudget&, const FutureView& future, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const FutureAttention attention = future_attention(cache, future, head);
      models::MatrixDouble largest = attention.by_query.front();
      for (const models::MatrixDouble& weights : attention.by_query) largest = largest.cwiseMax(weights);
      const Eigen::RowVectorXd importance = largest.colwise().sum();
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        scores.of(head)[place] = static_cast<float>(importance[entries[place]]);
      }
    }
  }
};

const Registration registration(
    {.name = "future_importance",
     .sentence = "Scores an entry by the attention to come, the largest over its group at every row; sees the future.",
     .citation = "the target of KVP, arXiv 2602.10238",
     .parameters = {},
     .make = MakeOracle([](const Parameters&) { return std::make_unique<FutureImportance>(); })});

}  // namespace
}  // namespace evictsim::policies
