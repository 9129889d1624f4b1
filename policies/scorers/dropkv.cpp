#include <vector>

#include "policies/registry.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

constexpr double smallest_rest = 1e-6;

/// What the outputs at the last tokens would change by if the entry alone went: its square, summed.
class DropKv : public WindowScorer {
 public:
  explicit DropKv(const Parameters& parameters)
      : WindowScorer(parameters.integer("window")),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)) {}

 protected:
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads group = cache.query_heads(head);
    const models::MatrixDouble values = cache.values(head).cast<double>();
    std::vector<double> mean(static_cast<std::size_t>(candidates), 0.0);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixDouble attention = cache.window_attention(query_head, window).cast<double>();
      const models::MatrixDouble outputs = attention.transpose() * values;
      for (Index i = 0; i < candidates; ++i) {
        for (Index query = 0; query < window; ++query) {
          const double weight = attention(i, query) / (1.0 - attention(i, query) + smallest_rest);
          mean[static_cast<std::size_t>(i)] +=
              weight * weight * (outputs.row(query) - values.row(i)).squaredNorm() / group.count;
        }
      }
    }
    return pool(pooling_, mean, kernel_);
  }

 private:
  Index kernel_;
  Pooling pooling_;
};

const Registration registration(
    {.name = "dropkv",
     .sentence = "Keeps the entries whose removal alone would change the outputs at the last tokens most.",
     .citation = "DropKV, ICML 2026, openreview MqfNzH3TVH",
     .parameters = {integer_parameter("window", "8", 1, 65536, "last tokens, which are kept and whose outputs count"),
                    kernel_parameter("11"), choice_parameter("pool", {"max", "avg"}, "pooling over neighbours")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<DropKv>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
