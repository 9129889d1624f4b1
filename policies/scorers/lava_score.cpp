#include <vector>

#include "policies/registry.h"
#include "policies/shared_parameters.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

/// Attention from the last tokens, pooled, times the largest L1 norm of a value of the head; the group's largest. The
/// last tokens themselves are protected.
class LavaScore : public WindowScorer {
 public:
  explicit LavaScore(const Parameters& parameters)
      : WindowScorer(parameters.integer("window")),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)) {}

 protected:
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads group = cache.query_heads(head);
    std::vector<std::vector<double>> rows;
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixView attention = cache.window_attention(query_head, window);
      std::vector<double> row;
      for (Index i = 0; i < candidates; ++i) row.push_back(attention.row(i).cast<double>().mean());
      rows.push_back(pool(pooling_, row, kernel_));
    }
    std::vector<double> reduced = reduce_group(GroupReduction::max, rows);
    const double largest_value = cache.values(head).topRows(candidates).cast<double>().rowwise().lpNorm<1>().maxCoeff();
    for (double& value : reduced) value *= largest_value;
    return reduced;
  }

 private:
  Index kernel_;
  Pooling pooling_;
};

const Registration registration(
    {.name = "lava_score",
     .sentence = "Keeps what the last tokens attend to, weighted by the largest value of the head.",
     .citation = "LAVa, arXiv 2509.09754; MGDDestiny/Lava",
     .parameters = lava_score_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LavaScore>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
