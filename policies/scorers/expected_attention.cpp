#include <algorithm>
#include <cmath>
#include <vector>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Multiplies the rows of `keys` by the transpose of the rotation averaged over `count` positions from `first` on, so
/// that a dot product with an unrotated query is the mean dot product with its rotations.
void average_rotation(const models::Rope& rope, double first, Index count, models::MatrixDouble& keys) {
  for (std::size_t pair = 0; pair < rope.inv_freq().size(); ++pair) {
    double cosine = 0;
    double sine = 0;
    for (Index step = 0; step < count; ++step) {
      const double angle = (first + static_cast<double>(step)) * rope.inv_freq()[pair];
      cosine += std::cos(angle);
      sine += std::sin(angle);
    }
    cosine *= rope.attention_scaling() / static_cast<double>(count);
    sine *= rope.attention_scaling() / static_cast<double>(count);
    const auto a = static_cast<Index>(rope.first_of_pair(pair));
    const auto b = static_cast<Index>(rope.second_of_pair(pair));
    const Eigen::VectorXd old_a = keys.col(a);
    const Eigen::VectorXd old_b = keys.col(b);
    keys.col(a) = cosine * old_a + sine * old_b;
    keys.col(b) = cosine * old_b - sine * old_a;
  }
}

/// Cosines and sines that undo the rotation of each row: [rows, pairs]. Taken once for all heads of a layer.
struct InverseRotation {
  InverseRotation(const CacheView& cache, std::span<const std::int32_t> rows)
      : cosine(std::ssize(rows), std::ssize(cache.rope().inv_freq())), sine(cosine.rows(), cosine.cols()) {
    for (Index i = 0; i < cosine.rows(); ++i) {
      const double position = cache.positions()[static_cast<std::size_t>(rows[static_cast<std::size_t>(i)])];
      for (Index pair = 0; pair < cosine.cols(); ++pair) {
        const double angle = position * cache.rope().inv_freq()[static_cast<std::size_t>(pair)];
        cosine(i, pair) = std::cos(angle) / cache.rope().attention_scaling();
        sine(i, pair) = std::sin(angle) / cache.rope().attention_scaling();
      }
    }
  }
  void apply(const models::Rope& rope, models::MatrixDouble& queries) const {
    for (Index pair = 0; pair < cosine.cols(); ++pair) {
      const auto a = static_cast<Index>(rope.first_of_pair(static_cast<std::size_t>(pair)));
      const auto b = static_cast<Index>(rope.second_of_pair(static_cast<std::size_t>(pair)));
      for (Index i = 0; i < queries.rows(); ++i) {
        const double first = queries(i, a);
        const double second = queries(i, b);
        queries(i, a) = first * cosine(i, pair) + second * sine(i, pair);
        queries(i, b) = second * cosine(i, pair) - first * sine(i, pair);
      }
    }
  }
  models::MatrixDouble cosine, sine;
};

void softmax(Eigen::VectorXd& logits) {
  logits.array() -= logits.maxCoeff();
  logits = logits.array().exp();
  logits /= logits.sum();
}

/// Mean attention of future queries drawn from a normal distribution fitted to those seen. Sinks neither enter the fit
/// nor compete; a sequence no longer than them counts all but its last token as sinks.
class ExpectedAttention : public Scorer {
 public:
  explicit ExpectedAttention(const Parameters& parameters)
      : future_(parameters.integer("future")),
        sinks_(parameters.integer("sinks")),
        covariance_(parameters.boolean("covariance")),
        value_norm_(parameters.boolean("value_norm")),
        epsilon_(parameters.real("epsilon")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index sinks = std::min(sinks_, cache.seen() - 1);
    const auto rows = cache.query_rows();
    const InverseRotation rotation(cache, rows.subspan(static_cast<std::size_t>(count_before(rows, sinks))));
    for (int head = 0; head < cache.heads(); ++head) {
      const Index first = count_before(cache.entries(head), sinks);
      const Index count = std::ssize(cache.entries(head)) - first;
      if (count == 0) continue;
      const Eigen::VectorXd expected = expected_attention(cache, head, rotation, first, count);
      const models::MatrixView values = cache.values(head);
      for (Index i = 0; i < count; ++i) {
        double value = expected[i];
        if (value_norm_) value = (value + epsilon_) * values.row(first + i).cast<double>().norm();
        scores.of(head)[static_cast<std::size_t>(first + i)] = static_cast<float>(value);
      }
    }
    const float raised = raised_score(scores);
    for (int head = 0; head < cache.heads(); ++head) {
      const Index first = count_before(cache.entries(head), sinks);
      std::fill_n(scores.of(head).begin(), first, raised);
    }
  }

  [[nodiscard]] Needs needs() const override { return {.all_queries = true}; }

 private:
  [[nodiscard]] Eigen::VectorXd expected_attention(const CacheView& cache, int head, const InverseRotation& rotation,
                                                   Index first, Index count) const {
    const double scale = cache.geometry().attention_scale;
    models::MatrixDouble keys = cache.keys(head).middleRows(first, count).cast<double>();
    average_rotation(cache.rope(), cache.positions().back() + 1.0, future_, keys);
    const QueryHeads group = cache.query_heads(head);
    Eigen::VectorXd expected = Eigen::VectorXd::Zero(count);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      models::MatrixDouble queries = unrotated_queries(cache, query_head, rotation);
      const Eigen::RowVectorXd mean = queries.colwise().mean();
      Eigen::VectorXd logits = scale * (keys * mean.transpose());
      if (covariance_) {
        queries.rowwise() -= mean;
        const models::MatrixDouble covariance = queries.transpose() * queries / static_cast<double>(queries.rows());
        const models::MatrixDouble product = keys * covariance;
        logits += (scale * scale / 2) * product.cwiseProduct(keys).rowwise().sum();
      }
      softmax(logits);
      expected += logits;
    }
    return expected / group.count;
  }

  /// The queries that `rotation` was made for, before RoPE; one row of zeros when there are none.
  static models::MatrixDouble unrotated_queries(const CacheView& cache, int query_head,
                                                const InverseRotation& rotation) {
    const models::MatrixView all = cache.queries(query_head);
    if (rotation.cosine.rows() == 0) return models::MatrixDouble::Zero(1, all.cols());
    models::MatrixDouble queries = all.bottomRows(rotation.cosine.rows()).cast<double>();
    rotation.apply(cache.rope(), queries);
    return queries;
  }

  Index future_;
  Index sinks_;
  bool covariance_;
  bool value_norm_;
  double epsilon_;
};

const Registration registration(
    {.name = "expected_attention",
     .sentence = "Keeps what future queries, drawn like those seen, are expected to attend to, weighted by value norm.",
     .citation = "Expected Attention, arXiv 2510.00636; kvpress 0.5.5 ExpectedAttentionPress",
     .parameters = {integer_parameter("future", "512", 1, 1e6, "positions ahead over which the rotation is averaged"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens, kept and left out of the fit"),
                    boolean_parameter("covariance", "true", "use the covariance of the queries, not only their mean"),
                    boolean_parameter("value_norm", "true", "multiply by the norm of the value"),
                    real_parameter("epsilon", "0", 0, 1e6, "added to the expected attention before that")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<ExpectedAttention>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
