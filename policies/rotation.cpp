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
    // Steps of equal angle sum to a turn by their middle, shortened (Dirichlet's kernel).
    const double angle = rope.inv_freq()[pair];
    const auto steps = static_cast<double>(count);
    const double half_step = std::sin(angle / 2);
    const double length = half_step == 0 ? 1.0 : std::sin(steps * angle / 2) / (steps * half_step);
    const double middle = (first + (steps - 1) / 2) * angle;
    const double cosine = rope.attention_scaling() * length * std::cos(middle);
    const double sine = rope.attention_scaling() * length * std::sin(middle);
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
