#include <algorithm>
#include <numeric>
#include <vector>

#include "policies/registry.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

/// The most attention that one of the last tokens pays in any head of the group, at least the mean over the entries.
class DefensiveKv : public WindowScorer {
 public:
  explicit DefensiveKv(const Parameters& parameters) : WindowScorer(parameters.integer("window")) {}

 protected:
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads group = cache.query_heads(head);
    std::vector<double> most(static_cast<std::size_t>(candidates), 0.0);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixView attention = cache.window_attention(query_head, window);
      for (Index i = 0; i < candidates; ++i) {
        double& own = most[static_cast<std::size_t>(i)];
        own = std::max(own, static_cast<double>(attention.row(i).maxCoeff()));
      }
    }
    const double mean = std::accumulate(most.begin(), most.end(), 0.0) / static_cast<double>(candidates);
    for (double& value : most) value = std::max(value, mean);
    return most;
  }
};

const Registration registration(
    {.name = "defensivekv",
     .sentence = "Keeps what any of the last tokens attends to in any head, against the worst case.",
     .citation = "DefensiveKV, ICLR 2026",
     .parameters = {integer_parameter("window", "32", 1, 65536,
                                      "last tokens, which are kept and whose attention "
                                      "counts")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<DefensiveKv>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
