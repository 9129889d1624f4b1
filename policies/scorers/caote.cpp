#include <algorithm>
#include <utility>
#include <vector>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

enum class GroupRule { mean_attention, max_attention, sum_error };

GroupRule rule_of(const Parameters& parameters) {
  const std::string& name = parameters.choice("gqa");
  if (name == "mean_a") return GroupRule::mean_attention;
  return name == "max_a" ? GroupRule::max_attention : GroupRule::sum_error;
}

/// An entry that holds all attention: its removal leaves no output to compare with.
constexpr double most_attention = 1.0 - 1e-6;

/// Scales to sum 1; zeros stay zeros.
void normalise(std::vector<double>& weights) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  if (sum <= 0) return;
  for (double& weight : weights) weight /= sum;
}

/// Turns the attention behind a score into the change of the attention output when the entry alone is removed.
class Caote : public OuterScorer {
 public:
  Caote(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)), rule_(rule_of(parameters)), fast_(parameters.boolean("fast")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    inner().score(cache, budget, scores);
    const std::vector<std::vector<double>> attention = inner().attention_of_score(cache);
    for (int head = 0; head < cache.heads(); ++head) {
      // What the inner scorer raises above all others it means to keep.
      for (Index i = 0; i < std::ssize(scores.of(head)); ++i) {
        if (scores.is_raised(head, i)) scores.protect(head, i);
      }
      score_head(cache, head, attention, scores);
    }
  }

 private:
  void score_head(const CacheView& cache, int head, const std::vector<std::vector<double>>& attention,
                  LayerScores& scores) const {
    std::vector<std::vector<double>> rows;
    const QueryHeads group = cache.query_heads(head);
    for (int query_head = group.first; query_head < group.first + group.count && !attention.empty(); ++query_head) {
      rows.push_back(attention[static_cast<std::size_t>(query_head)]);
    }
    if (rows.empty()) rows.push_back(score_as_attention(scores, head));
    const std::vector<Index> candidates = competing(rows, scores, head);
    if (candidates.empty()) return;
    for (std::vector<double>& row : rows) {
      std::vector<double> chosen;
      for (const Index i : candidates) chosen.push_back(row[static_cast<std::size_t>(i)]);
      normalise(chosen);
      row = std::move(chosen);
    }
    if (rule_ != GroupRule::sum_error) {
      std::vector<double> reduced =
          reduce_group(rule_ == GroupRule::mean_attention ? GroupReduction::mean : GroupReduction::max, rows);
      normalise(reduced);
      rows = {std::move(reduced)};
    }
    const models::MatrixView all = cache.values(head);
    models::MatrixDouble values(std::ssize(candidates), all.cols());
    for (Index i = 0; i < values.rows(); ++i) {
      values.row(i) = all.row(candidates[static_cast<std::size_t>(i)]).cast<double>();
    }
    std::vector<double> errors(candidates.size(), 0.0);
    for (const std::vector<double>& weights : rows) add_errors(weights, values, errors);
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      scores.of(head)[static_cast<std::size_t>(candidates[i])] = static_cast<float>(errors[i]);
    }
  }

  /// a / (1 - a) |X - v|, X the output under `weights` or, fast, the plain mean of the values.
  void add_errors(const std::vector<double>& weights, const models::MatrixDouble& values,
                  std::vector<double>& errors) const {
    const Eigen::Map<const Eigen::RowVectorXd> row(weights.data(), std::ssize(weights));
    const Eigen::RowVectorXd output = fast_ ? Eigen::RowVectorXd(values.colwise().mean()) : row * values;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double weight = std::min(weights[i], most_attention);
      errors[i] += weight / (1.0 - weight) * (output - values.row(static_cast<Index>(i))).norm();
    }
  }

  /// Entries that take part in the output: all but the protected ones that the attention leaves out.
  static std::vector<Index> competing(const std::vector<std::vector<double>>& rows, const LayerScores& scores,
                                      int head) {
    std::vector<Index> candidates;
    for (Index i = 0; i < std::ssize(scores.of(head)); ++i) {
      const bool attended = std::any_of(rows.begin(), rows.end(), [i](const std::vector<double>& row) {
        return row[static_cast<std::size_t>(i)] > 0;
      });
      if (attended || !scores.is_protected(head, i)) candidates.push_back(i);
    }
    return candidates;
  }

  /// For scores that are not made of attention: moved up so that the lowest is 0.
  static std::vector<double> score_as_attention(const LayerScores& scores, int head) {
    const std::span<const float> row = scores.of(head);
    double lowest = 0;
    for (Index i = 0; i < std::ssize(row); ++i) {
      if (!scores.is_protected(head, i)) lowest = std::min<double>(lowest, row[static_cast<std::size_t>(i)]);
    }
    std::vector<double> weights(row.size(), 0.0);
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!scores.is_protected(head, static_cast<Index>(i))) weights[i] = row[i] - lowest;
    }
    return weights;
  }

  GroupRule rule_;
  bool fast_;
};

const Registration registration(
    {.name = "caote",
     .sentence = "Keeps the entries whose removal alone would change the attention output most, by another score's "
                 "attention.",
     .citation = "CAOTE, arXiv 2504.14051",
     .parameters = {choice_parameter("gqa", {"mean_a", "max_a", "sum_c"},
                                     "the group's mean or largest attention, or the sum of its heads' errors"),
                    boolean_parameter("fast", "false", "FastCAOTE: the mean of the values in place of the output")},
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<Caote>(parameters, std::move(inner));
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
