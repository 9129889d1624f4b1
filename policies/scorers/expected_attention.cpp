#include <algorithm>
#include <cmath>
#include <vector>

#include "policies/call.h"
#include "policies/press.h"
#include "policies/registry.h"
#include "policies/rotation.h"
#include "policies/scoring.h"
#include "traces/error.h"
#include "traces/weights.h"

namespace evictsim::policies {
namespace {

void softmax(Eigen::VectorXd& logits) {
  logits.array() -= logits.maxCoeff();
  logits = logits.array().exp();
  logits /= logits.sum();
}

/// Mean and covariance of the queries of one query head before RoPE.
struct QueryStatistics {
  Eigen::RowVectorXd mean;
  models::MatrixDouble covariance;  ///< empty unless asked for
};

/// Mean attention of future queries drawn from a normal distribution fitted to those seen, or given. Sinks neither
/// enter the fit nor compete; a sequence no longer than them counts all but its last token as sinks.
class ExpectedAttention : public Scorer {
 public:
  explicit ExpectedAttention(const Parameters& parameters)
      : future_(parameters.integer("future")),
        sinks_(parameters.integer("sinks")),
        covariance_(parameters.boolean("covariance")),
        value_norm_(parameters.boolean("value_norm")),
        epsilon_(parameters.real("epsilon")) {
    if (!parameters.words("weights").empty()) weights_ = traces::Weights::open(parameters.words("weights"));
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index sinks = std::min(sinks_, cache.seen() - 1);
    const auto rows = cache.query_rows();
    const InverseRotation rotation(cache, rows.subspan(static_cast<std::size_t>(count_before(rows, sinks))));
    const std::vector<QueryStatistics> given = weights_ ? read_statistics(cache) : std::vector<QueryStatistics>();
    for (int head = 0; head < cache.heads(); ++head) {
      const Index first = count_before(cache.entries(head), sinks);
      const Index count = std::ssize(cache.entries(head)) - first;
      if (count == 0) continue;
      const auto statistics_of = [&](int query_head) {
        return weights_ ? given[static_cast<std::size_t>(query_head)]
                        : fit(unrotated_queries(cache, query_head, rotation));
      };
      const Eigen::VectorXd expected = expected_attention(cache, head, first, count, statistics_of);
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

  [[nodiscard]] Needs needs() const override { return {.all_queries = !weights_}; }

 private:
  [[nodiscard]] QueryStatistics fit(models::MatrixDouble queries) const {
    QueryStatistics statistics{.mean = queries.colwise().mean(), .covariance = {}};
    if (!covariance_) return statistics;
    queries.rowwise() -= statistics.mean;
    statistics.covariance = models::MatrixDouble::Zero(queries.cols(), queries.cols());
    statistics.covariance.selfadjointView<Eigen::Lower>().rankUpdate(queries.transpose(),
                                                                     1.0 / static_cast<double>(queries.rows()));
    statistics.covariance.triangularView<Eigen::StrictlyUpper>() = statistics.covariance.transpose();
    return statistics;
  }

  /// query_mean [H_q, d] and query_cov [H_q, d, d] of the layer, by query head.
  [[nodiscard]] std::vector<QueryStatistics> read_statistics(const CacheView& cache) const {
    const auto heads = static_cast<std::size_t>(cache.geometry().num_query_heads);
    const auto width = static_cast<std::size_t>(cache.geometry().head_dim);
    const traces::Tensor mean = weights_->read(cache.layer(), "query_mean", {heads, width}, "[H_q, d]");
    std::vector<QueryStatistics> statistics(heads);
    const auto d = static_cast<Index>(width);
    for (std::size_t head = 0; head < heads; ++head) {
      statistics[head].mean = models::view(mean.data.data() + head * width, 1, d).cast<double>();
    }
    if (!covariance_) return statistics;
    const traces::Tensor all = weights_->read(cache.layer(), "query_cov", {heads, width, width}, "[H_q, d, d]");
    for (std::size_t head = 0; head < heads; ++head) {
      statistics[head].covariance = models::view(all.data.data() + head * width * width, d, d).cast<double>();
    }
    return statistics;
  }

  template <typename StatisticsOf>
  [[nodiscard]] Eigen::VectorXd expected_attention(const CacheView& cache, int head, Index first, Index count,
                                                   const StatisticsOf& statistics_of) const {
    const double scale = cache.geometry().attention_scale;
    models::MatrixDouble keys = cache.keys(head).middleRows(first, count).cast<double>();
    average_rotation(cache.rope(), cache.positions().back() + 1.0, future_, keys);
    const QueryHeads group = cache.query_heads(head);
    Eigen::VectorXd expected = Eigen::VectorXd::Zero(count);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const QueryStatistics queries = statistics_of(query_head);
      Eigen::VectorXd logits = scale * (keys * queries.mean.transpose());
      if (covariance_) {
        const models::MatrixDouble product = keys * queries.covariance;
        logits += (scale * scale / 2) * product.cwiseProduct(keys).rowwise().sum();
      }
      softmax(logits);
      expected += logits;
    }
    return expected / group.count;
  }

  Index future_;
  Index sinks_;
  bool covariance_;
  bool value_norm_;
  double epsilon_;
  std::shared_ptr<const traces::Weights> weights_;  ///< null: fitted to the queries seen
};

const Registration registration(
    {.name = "expected_attention",
     .sentence = "Keeps what future queries, drawn like those seen, are expected to attend to, weighted by value norm.",
     .citation = "Expected Attention, arXiv 2510.00636; kvpress 0.5.5 ExpectedAttentionPress, "
                 "ExpectedAttentionStatsPress",
     .parameters = {integer_parameter("future", "512", 1, 1e6, "positions ahead over which the rotation is averaged"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens, kept and left out of the fit"),
                    boolean_parameter("covariance", "true", "use the covariance of the queries, not only their mean"),
                    boolean_parameter("value_norm", "true", "multiply by the norm of the value"),
                    real_parameter("epsilon", "0", 0, 1e6, "added to the expected attention before that"),
                    text_parameter("weights", "file with query_mean and query_cov in place of the queries seen")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<ExpectedAttention>(parameters); }),
     .is_policy = true});

PolicyText map_press(const PressArguments& given, const std::string& weights) {
  return {.name = "expected_attention",
          .arguments = {"future=" + given["n_future_positions"], "sinks=" + given["n_sink"],
                        "covariance=" + given["use_covariance"], "value_norm=" + given["use_vnorm"],
                        "epsilon=" + given["epsilon"], "weights=" + weights}};
}

const std::vector<PressArgument> press_arguments = {compression_ratio_argument,
                                                    {"n_future_positions", PressValue::integer, "512", "future"},
                                                    {"n_sink", PressValue::integer, "4", "sinks"},
                                                    {"use_covariance", PressValue::boolean, "True"},
                                                    {"use_vnorm", PressValue::boolean, "True"},
                                                    {"epsilon", PressValue::number, "0.0", "epsilon"}};

const PressRegistration press({.name = "ExpectedAttentionPress",
                               .part = "expected_attention",
                               .arguments = press_arguments,
                               .map = [](const PressArguments& given) { return map_press(given, "''"); }});

std::vector<PressArgument> statistics_arguments() {
  std::vector<PressArgument> arguments = press_arguments;
  arguments.insert(arguments.end(), {{"sample_seq_len", PressValue::integer, "1000"},
                                     {"num_samples", PressValue::integer, "100"},
                                     {"dataset_name", PressValue::text, "kmfoda/booksum"},
                                     {"stats_folder", PressValue::text, "None"}});
  return arguments;
}

const PressRegistration statistics_press(
    {.name = "ExpectedAttentionStatsPress",
     .part = "expected_attention",
     .arguments = statistics_arguments(),
     .map = [](const PressArguments& given) {
       if (given["stats_folder"] == "None") {
         throw Error(
             ErrorCode::unsupported,
             "statistics are not downloaded here: give stats_folder, an HDF5 file with query_mean and query_cov "
             "(docs/weights.md)",
             {.parameter = "ExpectedAttentionStatsPress: stats_folder"});
       }
       return map_press(given, quote_word(given["stats_folder"]));
     }});

}  // namespace
}  // namespace evictsim::policies
