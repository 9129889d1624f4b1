#include "policies/mean_direction.h"

#include <algorithm>

namespace evictsim::policies {
namespace {

constexpr double smallest_length = 1e-12;
constexpr double smallest_norm = 1e-8;

}  // namespace

std::vector<double> cosines_with_mean_direction(const models::MatrixView& rows) {
  const models::MatrixDouble vectors = rows.cast<double>();
  Eigen::RowVectorXd anchor = Eigen::RowVectorXd::Zero(vectors.cols());
  for (models::Index i = 0; i < vectors.rows(); ++i) {
    anchor += vectors.row(i) / std::max(vectors.row(i).norm(), smallest_length);
  }
  anchor /= static_cast<double>(std::max<models::Index>(vectors.rows(), 1));
  const double anchor_norm = std::max(anchor.norm(), smallest_norm);
  std::vector<double> cosines(static_cast<std::size_t>(vectors.rows()));
  for (models::Index i = 0; i < vectors.rows(); ++i) {
    cosines[static_cast<std::size_t>(i)] =
        vectors.row(i).dot(anchor) / (std::max(vectors.row(i).norm(), smallest_norm) * anchor_norm);
  }
  return cosines;
}

}  // namespace evictsim::policies
