#include "policies/rotation.h"

#include <cmath>

namespace evictsim::policies {

InverseRotation::InverseRotation(const CacheView& cache, std::span<const std::int32_t> rows)
    : cosine_(std::ssize(rows), std::ssize(cache.rope().inv_freq())), sine_(cosine_.rows(), cosine_.cols()) {
  for (Index i = 0; i < cosine_.rows(); ++i) {
    const double position = cache.positions()[static_cast<std::size_t>(rows[static_cast<std::size_t>(i)])];
    for (Index pair = 0; pair < cosine_.cols(); ++pair) {
      const double angle = position * cache.rope().inv_freq()[static_cast<std::size_t>(pair)];
      cosine_(i, pair) = std::cos(angle) / cache.rope().attention_scaling();
      sine_(i, pair) = std::sin(angle) / cache.rope().attention_scaling();
    }
  }
}

void InverseRotation::apply(const models::Rope& rope, models::MatrixDouble& vectors) const {
  for (Index pair = 0; pair < cosine_.cols(); ++pair) {
    const auto a = static_cast<Index>(rope.first_of_pair(static_cast<std::size_t>(pair)));
    const auto b = static_cast<Index>(rope.second_of_pair(static_cast<std::size_t>(pair)));
    for (Index i = 0; i < vectors.rows(); ++i) {
      const double first = vectors(i, a);
      const double second = vectors(i, b);
      vectors(i, a) = first * cosine_(i, pair) + second * sine_(i, pair);
      vectors(i, b) = second * cosine_(i, pair) - first * sine_(i, pair);
    }
  }
}

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

models::MatrixDouble unrotated_queries(const CacheView& cache, int query_head, const InverseRotation& rotation) {
  const models::MatrixView all = cache.queries(query_head);
  if (rotation.rows() == 0) return models::MatrixDouble::Zero(1, all.cols());
  models::MatrixDouble queries = all.bottomRows(rotation.rows()).cast<double>();
  rotation.apply(cache.rope(), queries);
  return queries;
}

}  // namespace evictsim::policies
