#include <vector>

#include "policies/registry.h"
#include "policies/window_logits.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

/// Second-order change of the outputs at the last tokens when an entry's value, key or both are set to zero (optimal
/// brain damage).
class ObCache : public WindowScorer {
 public:
  explicit ObCache(const Parameters& parameters)
      : WindowScorer(parameters.integer("window")),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)),
        with_value_(parameters.choice("of") != "key"),
        with_key_(parameters.choice("of") != "value") {}

 protected:
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads group = cache.query_heads(head);
    const models::MatrixDouble values = cache.values(head).cast<double>();
    std::vector<double> sum(static_cast<std::size_t>(candidates), 0.0);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixDouble attention = cache.window_attention(query_head, window).cast<double>();
      const models::MatrixDouble logits = window_logits(cache, head, query_head, window);
      const models::MatrixDouble outputs = attention.transpose() * values;
      for (Index i = 0; i < candidates; ++i) {
        for (Index query = 0; query < window; ++query) {
          sum[static_cast<std::size_t>(i)] +=
              change(attention(i, query), logits(i, query), values.row(i), outputs.row(query));
        }
      }
    }
    return pool(pooling_, sum, kernel_);
  }

 private:
  [[nodiscard]] double change(double weight, double logit, const Eigen::RowVectorXd& value,
                              const Eigen::RowVectorXd& output) const {
    double sum = 0;
    if (with_value_) sum += value.squaredNorm();
    if (with_key_) sum += logit * logit * (value - output).squaredNorm();
    if (with_value_ && with_key_) sum += 2 * logit * (value.squaredNorm() - value.dot(output));
    return weight * weight * sum;
  }

  Index kernel_;
  Pooling pooling_;
  bool with_value_;
  bool with_key_;
};

const Registration registration(
    {.name = "obcache",
     .sentence = "Keeps the entries whose value, key or both matter most to the outputs at the last tokens.",
     .citation = "OBCache, arXiv 2510.07651",
     .parameters = {integer_parameter("window", "16", 1, 65536, "last tokens, which are kept and whose outputs count"),
                    kernel_parameter("7"), choice_parameter("pool", {"max", "avg"}, "pooling over neighbours"),
                    choice_parameter("of", {"joint", "value", "key"}, "what is set to zero")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<ObCache>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
