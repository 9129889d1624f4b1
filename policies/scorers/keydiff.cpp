#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

// Smallest norms divided by, those of torch's normalize and cosine_similarity.
constexpr double smallest_key_norm = 1e-12;
constexpr double smallest_norm = 1e-8;

class KeyDifference : public Scorer {
 public:
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const models::MatrixDouble keys = cache.keys(head).cast<double>();
      const std::span<float> row = scores.of(head);
      Eigen::RowVectorXd anchor = Eigen::RowVectorXd::Zero(keys.cols());
      for (Index i = 0; i < keys.rows(); ++i) anchor += keys.row(i) / std::max(keys.row(i).norm(), smallest_key_norm);
      anchor /= static_cast<double>(std::max<Index>(keys.rows(), 1));
      const double anchor_norm = std::max(anchor.norm(), smallest_norm);
      for (Index i = 0; i < keys.rows(); ++i) {
        const double cosine = keys.row(i).dot(anchor) / (std::max(keys.row(i).norm(), smallest_norm) * anchor_norm);
        row[static_cast<std::size_t>(i)] = static_cast<float>(-cosine);
      }
    }
  }
};

const Registration registration({.name = "keydiff",
                                 .sentence = "Keeps the keys least like the mean direction of all keys.",
                                 .citation = "KeyDiff, arXiv 2504.15364; kvpress 0.5.5 KeyDiffPress",
                                 .parameters = {},
                                 .make = MakeScorer([](const Parameters&) {
                                   return std::make_unique<KeyDifference>();
                                 }),
                                 .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
