#include "policies/exact_attention.h"

#include <cmath>

#include "models/attention.h"

namespace evictsim::policies {

models::MatrixDouble exact_attention(const models::MatrixDouble& queries, const models::MatrixDouble& keys,
                                     std::span<const models::Index> visible, const models::Geometry& geometry) {
  const models::LogitRule rule{.scale = geometry.attention_scale, .softcap = geometry.logit_softcap};
  models::MatrixDouble weights(queries.rows(), keys.rows());
  weights.noalias() = queries * keys.transpose();
  for (models::Index r = 0; r < weights.rows(); ++r) {
    const models::Index count = visible[static_cast<std::size_t>(r)];
    auto row = weights.row(r).head(count);
    for (models::Index i = 0; i < count; ++i) row[i] = rule.logit(row[i]);
    const double largest = row.maxCoeff();
    double sum = 0;
    for (models::Index i = 0; i < count; ++i) {
      row[i] = std::exp(row[i] - largest);
      sum += row[i];
    }
    row /= sum;
    weights.row(r).tail(keys.rows() - count).setZero();
  }
  return weights;
}

}  // namespace evictsim::policies
