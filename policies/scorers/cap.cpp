#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/rotation.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// How much of what queries like those seen ask for each value spans: its leverage among all values, weighted by the
/// alignment of its key with the mean query. A sequence no longer than the sinks counts all but its last token as
/// sinks.
class Cap : public Scorer {
 public:
  explicit Cap(const Parameters& parameters)
      : tau_(parameters.real("tau")),
        future_(parameters.integer("future")),
        sinks_(parameters.integer("sinks")),
        epsilon_(parameters.real("epsilon")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index sinks = std::min(sinks_, cache.seen() - 1);
    const auto rows = cache.query_rows();
    const InverseRotation rotation(cache, rows.subspan(static_cast<std::size_t>(count_before(rows, sinks))));
    for (int head = 0; head < cache.heads(); ++head) {
      const Index first = count_before(cache.entries(head), sinks);
      const Index count = std::ssize(cache.entries(head)) - first;
      if (count == 0) continue;
      const models::MatrixDouble values = cache.values(head).middleRows(first, count).cast<double>();
      const models::MatrixDouble keys = cache.keys(head).middleRows(first, count).cast<double>();
      const QueryHeads group = cache.query_heads(head);
      Eigen::VectorXd total = Eigen::VectorXd::Zero(count);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const Eigen::VectorXd weights = relevance(cache, query_head, rotation, keys);
        total += weights.cwiseProduct(leverage(values, weights));
      }
      for (Index i = 0; i < count; ++i) {
        scores.of(head)[static_cast<std::size_t>(first + i)] = static_cast<float>(total[i] / group.count);
      }
    }
    const float raised = raised_score(scores);
    for (int head = 0; head < cache.heads(); ++head) {
      std::fill_n(scores.of(head).begin(), count_before(cache.entries(head), sinks), raised);
    }
  }

  [[nodiscard]] Needs needs() const override { return {.all_queries = true}; }

 private:
  static constexpr double shortest = 1e-12;  ///< norms are at least this, as torch's normalize has it

  /// exp(tau * cosine) of every key with the mean query at the positions to come, the largest shifted to 1.
  [[nodiscard]] Eigen::VectorXd relevance(const CacheView& cache, int query_head, const InverseRotation& rotation,
                                          const models::MatrixDouble& keys) const {
    const Eigen::RowVectorXd mean = unrotated_queries(cache, query_head, rotation).colwise().mean();
    const Eigen::RowVectorXd anchor = rotate_ahead(cache, mean);
    const double anchor_norm = std::max(anchor.norm(), shortest);
    Eigen::VectorXd logits = keys * anchor.transpose() / anchor_norm;
    for (Index i = 0; i < logits.size(); ++i) {
      logits[i] = tau_ * std::clamp(logits[i] / std::max(keys.row(i).norm(), shortest), -1.0, 1.0);
    }
    return (logits.array() - logits.maxCoeff()).exp();
  }

  /// Mean over the positions to come of the anchor's rotations.
  [[nodiscard]] Eigen::RowVectorXd rotate_ahead(const CacheView& cache, const Eigen::RowVectorXd& mean) const {
    // Every row e of the identity becomes (R^T e)^T: together they are R.
    models::MatrixDouble rotation = models::MatrixDouble::Identity(mean.size(), mean.size());
    average_rotation(cache.rope(), cache.positions().back() + 1.0, future_, rotation);
    return (rotation * mean.transpose()).transpose();
  }

  /// v_j^T (I + sum_i (w_i + epsilon) v_i v_i^T)^-1 v_j.
  [[nodiscard]] Eigen::VectorXd leverage(const models::MatrixDouble& values, const Eigen::VectorXd& weights) const {
    Eigen::MatrixXd capacity = values.transpose() * (weights.array() + epsilon_).matrix().asDiagonal() * values;
    capacity.diagonal().array() += 1.0;
    const Eigen::LLT<Eigen::MatrixXd> factor(capacity);
    const Eigen::MatrixXd half = factor.matrixL().solve(values.transpose());
    return half.colwise().squaredNorm().transpose();
  }

  double tau_;
  Index future_;
  Index sinks_;
  double epsilon_;
};

const Registration registration(
    {.name = "cap",
     .sentence = "Keeps values that span most of what queries like those seen ask for.",
     .citation = "CapKV, arXiv 2604.25975; kvpress 0.5.5 CapPress",
     .parameters = {real_parameter("tau", "5", 0, 1e6, "sharpness of the alignment of keys with the mean query"),
                    integer_parameter("future", "512", 1, 1e6, "positions ahead over which the rotation is averaged"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens, kept and left out of the mean"),
                    real_parameter("epsilon", "1e-6", 0, 1e6, "added to every weight")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Cap>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "CapPress",
                               .part = "cap",
                               .arguments = {compression_ratio_argument,
                                             {"tau", PressValue::number, "5.0", "tau"},
                                             {"n_future_positions", PressValue::integer, "512", "future"},
                                             {"n_sink", PressValue::integer, "4", "sinks"},
                                             {"epsilon", PressValue::number, "1e-6", "epsilon"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "cap",
                                         .arguments = {"tau=" + given["tau"], "future=" + given["n_future_positions"],
                                                       "sinks=" + given["n_sink"], "epsilon=" + given["epsilon"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies
