#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "policies/registry.h"
#include "policies/shared_parameters.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

enum class GroupRule { mean_attention, mean_score, sum_epsilon, exact_group };

GroupRule rule_of(const Parameters& parameters) {
  const std::string& name = parameters.choice("gqa");
  if (name == "mean_attn") return GroupRule::mean_attention;
  if (name == "mean_score") return GroupRule::mean_score;
  if (name == "sum_eps") return GroupRule::sum_epsilon;
  return GroupRule::exact_group;
}

/// Added to the attention norms that are summed over a group, as the port that does so has it.
constexpr double sum_epsilon = 1e-12;

/// The norm of the rank-one part of the layer's output that leaves with an entry: what the last tokens attend to it,
/// times its value behind W_O. The last tokens themselves are protected.
class LaProxScore : public WindowScorer {
 public:
  explicit LaProxScore(const Parameters& parameters)
      : WindowScorer(parameters.integer("window")), kernel_(parameters.integer("kernel")), rule_(rule_of(parameters)) {}

  [[nodiscard]] Needs needs() const override { return WindowScorer::needs().with(Needs{.output_weights = true}); }

 protected:
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    if (rule_ == GroupRule::mean_attention) return mean_attention(cache, head, window, candidates);
    if (rule_ == GroupRule::exact_group) {
      return pool(Pooling::avg, exact_group(cache, head, window, candidates), kernel_);
    }
    const QueryHeads group = cache.query_heads(head);
    std::vector<double> total(static_cast<std::size_t>(candidates), 0.0);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const Eigen::VectorXd norms = attention(cache, query_head, window, candidates).cast<double>().rowwise().norm();
      const Eigen::VectorXd sizes = projected_norms(cache, head, query_head, candidates);
      for (Index i = 0; i < candidates; ++i) {
        total[static_cast<std::size_t>(i)] +=
            rule_ == GroupRule::sum_epsilon ? (norms[i] + sum_epsilon) * sizes[i] : norms[i] * sizes[i] / group.count;
      }
    }
    return pool(Pooling::avg, total, kernel_);
  }

 private:
  /// The group's mean attention, its norm over the window pooled, times the mean norm of the projected value.
  std::vector<double> mean_attention(const CacheView& cache, int head, Index window, Index candidates) {
    const QueryHeads group = cache.query_heads(head);
    models::MatrixDouble mean = models::MatrixDouble::Zero(candidates, window);
    Eigen::VectorXd sizes = Eigen::VectorXd::Zero(candidates);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      mean += attention(cache, query_head, window, candidates).cast<double>();
      sizes += projected_norms(cache, head, query_head, candidates);
    }
    const Eigen::VectorXd norms = mean.rowwise().norm() / group.count;
    std::vector<double> row = pool(Pooling::avg, {norms.data(), static_cast<std::size_t>(candidates)}, kernel_);
    for (Index i = 0; i < candidates; ++i) row[static_cast<std::size_t>(i)] *= sizes[i] / group.count;
    return row;
  }

  /// The Frobenius norm of what the whole group loses with the entry.
  std::vector<double> exact_group(const CacheView& cache, int head, Index window, Index candidates) {
    const QueryHeads group = cache.query_heads(head);
    Eigen::VectorXd squared = Eigen::VectorXd::Zero(candidates);
    for (int a = group.first; a < group.first + group.count; ++a) {
      const models::MatrixDouble attention_a = attention(cache, a, window, candidates).cast<double>();
      for (int b = a; b < group.first + group.count; ++b) {
        const models::MatrixDouble attention_b = attention(cache, b, window, candidates).cast<double>();
        const Eigen::VectorXd overlap = attention_a.cwiseProduct(attention_b).rowwise().sum();
        squared += (a == b ? 1.0 : 2.0) * overlap.cwiseProduct(projected_products(cache, head, {a, b}, candidates));
      }
    }
    std::vector<double> row;
    for (const double value : squared) row.push_back(std::sqrt(std::max(0.0, value)));
    return row;
  }

  [[nodiscard]] static models::Matrix attention(const CacheView& cache, int query_head, Index window,
                                                Index candidates) {
    return cache.window_attention(query_head, window).topRows(candidates);
  }

  Eigen::VectorXd projected_norms(const CacheView& cache, int head, int query_head, Index candidates) {
    return projected_products(cache, head, {query_head, query_head}, candidates).cwiseMax(0.0).cwiseSqrt();
  }

  /// (W_a v_i) . (W_b v_i) for the candidates, through the Gram matrix of the two heads' columns of W_O.
  Eigen::VectorXd projected_products(const CacheView& cache, int head, std::pair<int, int> query_heads,
                                     Index candidates) {
    const auto [found, is_new] = grams_.try_emplace(query_heads);
    if (is_new) {
      found->second = cache.output_weights(query_heads.first).cast<double>().transpose() *
                      cache.output_weights(query_heads.second).cast<double>();
    }
    const models::MatrixDouble values = cache.values(head).topRows(candidates).cast<double>();
    return (values * found->second).cwiseProduct(values).rowwise().sum();
  }

  Index kernel_;
  GroupRule rule_;
  std::map<std::pair<int, int>, models::MatrixDouble> grams_;  ///< by pair of query heads, [d, d]
};

const Registration registration(
    {.name = "laprox_score",
     .sentence = "Keeps what carries most of the layer's output to the last tokens: attention times projected value.",
     .citation = "LaProx, arXiv 2605.07234",
     .parameters = laprox_score_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LaProxScore>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
