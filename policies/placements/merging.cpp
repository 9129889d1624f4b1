#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "policies/merge_on_evict.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// kvpress' epsilon for norms.
constexpr double smallest_norm = 1e-6;

/// Every evicted value is folded into the value of the kept entry whose key is most like its own; keys stay.
class Merging : public MergeOnEvict {
 public:
  explicit Merging(const Parameters& parameters)
      : similarity_threshold_(parameters.real("similarity_threshold")),
        merge_fraction_(parameters.real("merge_fraction")) {}

 protected:
  void merge(const PlacementView& layer, int head, std::span<const std::int32_t> evicted, Rows& rows) override {
    const auto kept = layer.hot().entries(head);
    std::vector<Index> targets;
    std::vector<double> similarity;
    find_targets(rows.keys, kept, evicted, targets, similarity);
    const double least = least_similarity(similarity);
    const Index width = layer.hot().geometry().head_dim;
    models::MatrixDouble sums = models::MatrixDouble::Zero(std::ssize(kept), width);
    std::vector<double> weights(kept.size(), 0.0);
    for (std::size_t i = 0; i < evicted.size(); ++i) {
      if (similarity[i] < similarity_threshold_ || similarity[i] < least) continue;
      const Eigen::VectorXd value = vector_of(rows.values, evicted[i]);
      const double norm = value.norm();
      const double target_norm = vector_of(rows.values, kept[static_cast<std::size_t>(targets[i])]).norm();
      const double weight = std::max(similarity[i], 0.0) * norm / (norm + target_norm + smallest_norm);
      sums.row(targets[i]) += weight * value.transpose();
      weights[static_cast<std::size_t>(targets[i])] += weight;
    }
    for (std::size_t place = 0; place < kept.size(); ++place) {
      if (weights[place] <= 0) continue;
      const std::span<float> value = rows.values.row(kept[place]);
      for (std::size_t c = 0; c < value.size(); ++c) {
        const double sum = static_cast<double>(value[c]) + sums(static_cast<Index>(place), static_cast<Index>(c));
        value[c] = static_cast<float>(sum / (1 + weights[place]));
      }
    }
  }

 private:
  static Eigen::VectorXd vector_of(const ChangedRows& rows, Index row) {
    const auto numbers = rows.row(row);
    return Eigen::Map<const Eigen::VectorXf>(numbers.data(), std::ssize(numbers)).cast<double>();
  }

  static models::MatrixDouble directions(const ChangedRows& keys, std::span<const std::int32_t> rows) {
    models::MatrixDouble matrix(std::ssize(rows), keys.view().cols());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Eigen::VectorXd key = vector_of(keys, rows[i]);
      matrix.row(static_cast<Index>(i)) = key.transpose() / std::max(key.norm(), smallest_norm);
    }
    return matrix;
  }

  /// Place among `kept` of the most similar key, the first of equal ones, and its cosine.
  static void find_targets(const ChangedRows& keys, std::span<const std::int32_t> kept,
                           std::span<const std::int32_t> evicted, std::vector<Index>& targets,
                           std::vector<double>& similarity) {
    constexpr std::size_t block = 256;
    const models::MatrixDouble of_kept = directions(keys, kept);
    for (std::size_t begin = 0; begin < evicted.size(); begin += block) {
      const auto part = evicted.subspan(begin, std::min(block, evicted.size() - begin));
      const models::MatrixDouble cosines = directions(keys, part) * of_kept.transpose();
      for (Index i = 0; i < cosines.rows(); ++i) {
        Index target = 0;
        similarity.push_back(cosines.row(i).maxCoeff(&target));
        targets.push_back(target);
      }
    }
  }

  /// The quantile above which the most similar `merge_fraction` of the evicted lie; those below the threshold count as
  /// least similar.
  [[nodiscard]] double least_similarity(const std::vector<double>& similarity) const {
    constexpr double lowest = -std::numeric_limits<double>::infinity();
    if (merge_fraction_ >= 1) return lowest;
    std::vector<double> ordered = similarity;
    for (double& value : ordered) value = value < similarity_threshold_ ? lowest : value;
    std::sort(ordered.begin(), ordered.end());
    const double place = (1 - merge_fraction_) * static_cast<double>(ordered.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, ordered.size() - 1);
    if (std::isinf(ordered[below])) return lowest;
    return ordered[below] + (ordered[above] - ordered[below]) * (place - static_cast<double>(below));
  }

  double similarity_threshold_;
  double merge_fraction_;
};

const Registration registration(
    {.name = "merging",
     .sentence = "Folds the value of every evicted entry into the kept one with the most similar key.",
     .citation = "kvpress 0.5.5 MergingPress, after ToMe, arXiv 2210.09461, and D2O, arXiv 2406.13035",
     .parameters = {real_parameter("similarity_threshold", "0", 0, 1, "least cosine of keys that merges"),
                    real_parameter("merge_fraction", "1", 1e-9, 1,
                                   "share of the evicted that merges, most similar first")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<Merging>(parameters); }),
     .is_policy = true,
     .default_policy = "snapkv()"});

const PressRegistration press(
    {.name = "MergingPress",
     .part = "merging",
     .arguments = {{"press", PressValue::press, nullptr},
                   {"similarity_threshold", PressValue::number, "0.0", "similarity_threshold"},
                   {"merge_fraction", PressValue::number, "1.0", "merge_fraction"}},
     .map = [](const PressArguments& given) -> PolicyText {
       PolicyText text = scores_of_press(given, "MergingPress");
       text.arguments.push_back(fmt::format("placement=merging(similarity_threshold={},merge_fraction={})",
                                            given["similarity_threshold"], given["merge_fraction"]));
       text.scores = false;
       return text;
     }});

}  // namespace
}  // namespace evictsim::policies
