#include "models/norm.h"

#include <cmath>
#include <utility>

namespace evictsim::models {

Norm Norm::of(const traces::Header& header, std::vector<float> weight) {
  return {.weight = std::move(weight),
          .kind = header.norm_kind.value_or(traces::NormKind::rms),
          .epsilon = header.norm_epsilon.value_or(1e-6)};
}

void Norm::apply(Matrix& rows) const {
  const Eigen::Map<const Eigen::RowVectorXf> weights(weight.data(), static_cast<Index>(weight.size()));
  const float offset = kind == traces::NormKind::rms_plus_one ? 1.0F : 0.0F;
  for (Index i = 0; i < rows.rows(); ++i) {
    auto row = rows.row(i);
    if (kind == traces::NormKind::layer) row.array() -= row.mean();
    const double mean_square = row.cast<double>().squaredNorm() / static_cast<double>(row.size());
    const auto inverse = static_cast<float>(1.0 / std::sqrt(mean_square + epsilon));
    row.array() *= inverse * (weights.array() + offset);
  }
}

}  // namespace evictsim::models
