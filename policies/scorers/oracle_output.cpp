#include <algorithm>
#include <limits>
#include <vector>

#include "policies/future_attention.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Entries of the prompt evicted one after another, each time those whose loss moves the attention output of all decode
/// rows least. Everything decoded stays.
class GreedyElimination {
 public:
  GreedyElimination(const CacheView& cache, const FutureView& future, int head)
      : attention_(future_attention(cache, future, head)),
        entries_(cache.entries(head)),
        values_(cache.values(head).cast<double>()),
        value_norms_(values_.rowwise().squaredNorm()) {
    const models::MatrixDouble all =
        future.values(cache.geometry().kv_head_of(cache.query_heads(head).first)).cast<double>();
    for (const models::MatrixDouble& weights : attention_.by_query) {
      Group group;
      group.weights.resize(weights.rows(), std::ssize(entries_));
      for (Index i = 0; i < group.weights.cols(); ++i) {
        group.weights.col(i) = weights.col(entries_[static_cast<std::size_t>(i)]);
      }
      const models::MatrixDouble output = weights * all;
      group.mass = Eigen::VectorXd::Ones(weights.rows());
      group.sum_sum = output.rowwise().squaredNorm();
      group.sum_output = group.output_output = group.sum_sum;
      group.value_output = output * values_.transpose();
      group.value_sum = group.value_output;
      groups_.push_back(std::move(group));
    }
  }

  /// Places in the order in which they go; `batch` at a time are judged alike.
  std::vector<std::int32_t> order(Index batch) {
    std::vector<std::int32_t> left(entries_.size());
    for (std::size_t i = 0; i < left.size(); ++i) left[i] = static_cast<std::int32_t>(i);
    std::vector<std::int32_t> gone;
    std::vector<double> loss(entries_.size());
    while (!left.empty()) {
      for (const std::int32_t place : left) loss[static_cast<std::size_t>(place)] = loss_without(place);
      const auto count =
          static_cast<std::ptrdiff_t>(std::min<std::size_t>(static_cast<std::size_t>(batch), left.size()));
      std::partial_sort(left.begin(), left.begin() + count, left.end(), [&](std::int32_t a, std::int32_t b) {
        const double x = loss[static_cast<std::size_t>(a)];
        const double y = loss[static_cast<std::size_t>(b)];
        return x != y ? x < y : a < b;
      });
      for (std::ptrdiff_t i = 0; i < count; ++i) {
        gone.push_back(left[static_cast<std::size_t>(i)]);
        remove(gone.back());
      }
      left.erase(left.begin(), left.begin() + count);
      std::sort(left.begin(), left.end());
    }
    return gone;
  }

 private:
  /// Sums over what is left, of one query head: s = sum of p v, m = sum of p, against the full output o.
  struct Group {
    models::MatrixDouble weights;                              ///< [R, entries]
    Eigen::VectorXd mass, sum_sum, sum_output, output_output;  ///< m, s.s, s.o, o.o
    models::MatrixDouble value_sum, value_output;              ///< v.s, v.o: [R, entries]
  };

  /// Sum over rows and query heads of |s' / m' - o|^2 without the entry.
  [[nodiscard]] double loss_without(std::int32_t place) const {
    double loss = 0;
    for (const Group& group : groups_) {
      const auto weight = group.weights.col(place).array();
      const Eigen::ArrayXd mass = (group.mass.array() - weight).max(smallest_mass);
      // |s - p v - m' o|^2, expanded.
      const Eigen::ArrayXd squared =
          group.sum_sum.array() + weight.square() * value_norms_[place] + mass.square() * group.output_output.array() -
          2 * weight * group.value_sum.col(place).array() - 2 * mass * group.sum_output.array() +
          2 * weight * mass * group.value_output.col(place).array();
      loss += (squared / mass.square()).max(0.0).sum();
    }
    return loss;
  }

  void remove(std::int32_t place) {
    const Eigen::VectorXd products = values_ * values_.row(place).transpose();
    for (Group& group : groups_) {
      const Eigen::VectorXd weight = group.weights.col(place);
      group.sum_sum.array() +=
          weight.array().square() * value_norms_[place] - 2 * weight.array() * group.value_sum.col(place).array();
      group.sum_output.array() -= weight.array() * group.value_output.col(place).array();
      group.mass -= weight;
      group.value_sum.noalias() -= weight * products.transpose();
    }
  }

  static constexpr double smallest_mass = 1e-12;
  FutureAttention attention_;
  std::span<const std::int32_t> entries_;
  models::MatrixDouble values_;  ///< [entries, d]
  Eigen::VectorXd value_norms_;
  std::vector<Group> groups_;
};

class OracleOutput : public OracleScorer {
 public:
  explicit OracleOutput(const Parameters& parameters) : batch_(parameters.optional_integer("batch")) {}

  void score(const CacheView& cache, const CutBudget&, const FutureView& future, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = static_cast<Index>(cache.entries(head).size());
      const Index batch = batch_.value_or((entries + steps_when_automatic - 1) / steps_when_automatic);
      const std::vector<std::int32_t> order = GreedyElimination(cache, future, head).order(std::max<Index>(1, batch));
      for (std::size_t rank = 0; rank < order.size(); ++rank) {
        scores.of(head)[static_cast<std::size_t>(order[rank])] = static_cast<float>(rank);
      }
    }
  }

 private:
  static constexpr Index steps_when_automatic = 1024;
  std::optional<Index> batch_;
};

ParameterSpec batch_parameter() {
  ParameterSpec spec =
      integer_parameter("batch", "auto", 1, 1e9, "entries evicted between two rankings; auto: one up to 1,024 entries");
  spec.automatic = true;
  return spec;
}

const Registration registration(
    {.name = "oracle_output",
     .sentence =
         "Evicts, one by one, the prompt entry whose loss moves the attention output of the rows to come least.",
     .citation = "greedy on the exact output change; no paper, a reference of this project",
     .parameters = {batch_parameter()},
     .make = MakeOracle([](const Parameters& parameters) { return std::make_unique<OracleOutput>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
