#include <Eigen/Eigenvalues>
#include <algorithm>
#include <memory>

#include "policies/press.h"
#include "policies/registry.h"
#include "traces/weights.h"

namespace evictsim::policies {
namespace {

/// Projects keys on the direction that most queries of the group share.
class QFilter : public Scorer {
 public:
  explicit QFilter(const Parameters& parameters) {
    if (!parameters.words("weights").empty()) weights_ = traces::Weights::open(parameters.words("weights"));
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const models::MatrixDouble given = weights_ ? read_filters(cache) : models::MatrixDouble();
    for (int head = 0; head < cache.heads(); ++head) {
      const QueryHeads group = cache.query_heads(head);
      const Eigen::VectorXd filter = weights_ ? Eigen::VectorXd(given.row(cache.geometry().kv_head_of(group.first)))
                                              : Eigen::VectorXd(-shared_direction(cache, group));
      const models::MatrixView keys = cache.keys(head);
      for (Index i = 0; i < keys.rows(); ++i) {
        scores.of(head)[static_cast<std::size_t>(i)] = static_cast<float>(-keys.row(i).cast<double>().dot(filter));
      }
    }
  }
  [[nodiscard]] Needs needs() const override { return {.all_queries = !weights_}; }

 private:
  /// q_filter [H_kv, d] of the layer.
  [[nodiscard]] models::MatrixDouble read_filters(const CacheView& cache) const {
    const models::Geometry& geometry = cache.geometry();
    const traces::Tensor filters = weights_->read(
        cache.layer(), "q_filter",
        {static_cast<std::size_t>(geometry.num_kv_heads), static_cast<std::size_t>(geometry.head_dim)}, "[H_kv, d]");
    return models::view(filters.data.data(), geometry.num_kv_heads, geometry.head_dim).cast<double>();
  }

  /// Mean over the group of the first right singular vector of a head's queries, turned towards their mean.
  static Eigen::VectorXd shared_direction(const CacheView& cache, QueryHeads group) {
    Eigen::VectorXd direction = Eigen::VectorXd::Zero(cache.geometry().head_dim);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixDouble queries = cache.queries(query_head).cast<double>();
      if (queries.rows() == 0) continue;
      const Eigen::MatrixXd gram = queries.transpose() * queries;
      const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
      const Eigen::VectorXd vector = solver.eigenvectors().rightCols(1);
      direction += queries.colwise().mean().dot(vector) < 0 ? Eigen::VectorXd(-vector) : vector;
    }
    return direction / group.count;
  }

  std::shared_ptr<const traces::Weights> weights_;  ///< null: filters of the queries seen
};

const Registration registration(
    {.name = "qfilter",
     .sentence = "Keeps keys that lie in the direction which most queries share.",
     .citation = "Q-Filters, arXiv 2503.02812; kvpress 0.5.5 QFilterPress",
     .parameters = {text_parameter("weights", "file with q_filter [H_kv, d] per layer; empty: of the queries seen")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<QFilter>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "QFilterPress",
                               .part = "qfilter",
                               .arguments = {compression_ratio_argument},
                               .map = [](const PressArguments&) -> PolicyText {
                                 return {.name = "qfilter", .arguments = {"weights=''"}};
                               }});

}  // namespace
}  // namespace evictsim::policies
