#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Spread of every entry relative to the partition that follows, softmax over its own partition: [lag].
/// A channel that is constant in the following partition says nothing and counts as 0 (kvpress divides by zero there).
std::vector<double> partition_scores(const models::MatrixView& states, Index first, Index lag) {
  const models::MatrixDouble own = states.middleRows(first, lag).cast<double>();
  const models::MatrixDouble next = states.middleRows(first + lag, lag).cast<double>();
  const Eigen::RowVectorXd lowest = next.colwise().minCoeff();
  const Eigen::RowVectorXd range = next.colwise().maxCoeff() - lowest;
  std::vector<double> scores(static_cast<std::size_t>(lag));
  for (Index i = 0; i < lag; ++i) {
    const Eigen::RowVectorXd relative =
        (range.array() > 0).select((own.row(i) - lowest).array() / range.array(), 0.0).matrix();
    const double mean = relative.mean();
    const double squares = (relative.array() - mean).square().sum();
    scores[static_cast<std::size_t>(i)] =
        std::sqrt(squares / static_cast<double>(std::max<Index>(states.cols() - 1, 1)));
  }
  const double highest = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - highest);
  for (double& score : scores) score /= total;
  return scores;
}

class LagKv : public Scorer {
 public:
  explicit LagKv(const Parameters& parameters)
      : sinks_(parameters.integer("sinks")), lag_(parameters.integer("lag")), cross_(parameters.boolean("cross")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const std::span<float> row = scores.of(head);
      const Index count = std::ssize(row);
      std::fill(row.begin(), row.end(), 1.0F);
      if (count < sinks_ + 2 * lag_) {
        for (Index i = sinks_; i < count; ++i) {
          row[static_cast<std::size_t>(i)] = static_cast<float>(i - sinks_) / static_cast<float>(count - sinks_);
        }
        continue;
      }
      const Index partitions = (count - sinks_) / lag_;
      for (Index partition = 0; partition + 1 < partitions; ++partition) {
        const Index first = sinks_ + partition * lag_;
        score_partition(cache, head, first,
                        row.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(lag_)));
      }
    }
  }

 private:
  void score_partition(const CacheView& cache, int head, Index first, std::span<float> row) const {
    std::vector<double> scores = partition_scores(cache.keys(head), first, lag_);
    const std::vector<double> of_values = partition_scores(cache.values(head), first, lag_);
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = (scores[i] + of_values[i]) / 2;
    if (cross_) {
      std::transform(scores.begin(), scores.end(), row.begin(), [](double score) { return static_cast<float>(score); });
      return;
    }
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
    for (std::size_t rank = 0; rank < order.size(); ++rank) {
      row[order[rank]] = static_cast<float>(rank) / static_cast<float>(lag_);
    }
  }

  Index sinks_;
  Index lag_;
  bool cross_;
};

const Registration registration(
    {.name = "lagkv",
     .sentence = "Keeps entries whose keys and values spread widely relative to the partition that follows them.",
     .citation = "LagKV, arXiv 2504.04704; kvpress 0.5.5 LagKVPress",
     .parameters = {integer_parameter("sinks", "4", 0, 1e9, "first entries, score 1"),
                    integer_parameter("lag", "128", 1, 1e9,
                                      "entries of a partition; shorter than sinks + 2 lag: newest first"),
                    boolean_parameter("cross", "false", "compare scores across partitions instead of ranks in each")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LagKv>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "LagKVPress",
                               .part = "lagkv",
                               .arguments = {compression_ratio_argument,
                                             {"n_sink", PressValue::integer, "4", "sinks"},
                                             {"lag_size", PressValue::integer, "128", "lag"},
                                             {"cross_scoring", PressValue::boolean, "False"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "lagkv",
                                         .arguments = {"sinks=" + given["n_sink"], "lag=" + given["lag_size"],
                                                       "cross=" + given["cross_scoring"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies
