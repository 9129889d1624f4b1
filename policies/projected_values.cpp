#include "policies/projected_values.h"

#include <algorithm>
#include <cmath>

namespace evictsim::policies {
namespace {

/// Entries projected at once: their images stay in the processor's cache.
constexpr Index block_entries = 64;

}  // namespace

std::vector<double> projected_value_norms(const CacheView& cache, int head, int query_head, Norm norm) {
  const models::MatrixView values = cache.values(head);
  const models::MatrixView weights = cache.output_weights(query_head);
  std::vector<double> norms(static_cast<std::size_t>(values.rows()));
  models::Matrix images;  // [entries, hidden_size]
  for (Index first = 0; first < values.rows(); first += block_entries) {
    const Index count = std::min(block_entries, values.rows() - first);
    images.noalias() = values.middleRows(first, count) * weights.transpose();
    for (Index i = 0; i < count; ++i) {
      const auto image = images.row(i).cast<double>();
      norms[static_cast<std::size_t>(first + i)] = norm == Norm::l1 ? image.cwiseAbs().sum() : image.norm();
    }
  }
  return norms;
}

std::vector<double> mean_projected_value_norms(const CacheView& cache, int head, Norm norm) {
  const QueryHeads group = cache.query_heads(head);
  std::vector<double> mean(cache.entries(head).size(), 0.0);
  for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
    const std::vector<double> norms = projected_value_norms(cache, head, query_head, norm);
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += norms[i] / group.count;
  }
  return mean;
}

}  // namespace evictsim::policies
