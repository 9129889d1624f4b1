#include "analysis/damage/summed_errors.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace evictsim::analysis {
namespace {

/// Of the final residual stream's length. A thousand layers of `largest` still fit into 63 bits.
constexpr double unit = 0x1p-40;
constexpr double largest = 4096;

}  // namespace

SummedErrors::SummedErrors(const sim::SequenceStart& start, std::size_t points)
    : rows_(start.summed_rows), norms_(start.final_norms), layer_count_(start.layers.size()), points_(points) {
  for (PointSums& point : points_) point.layers.assign(rows_.size(), 0);
}

void SummedErrors::add(const sim::LayerBlock& block) {
  const sim::ErrorVectors& errors = block.summed_error;
  if (errors.values.empty()) return;
  PointSums& point = points_[block.point];
  const std::size_t directions = errors.values.size() / errors.rows.size();
  point.sums.resize(rows_.size() * directions, 0);
  for (std::size_t index = 0; index < errors.rows.size(); ++index) {
    const auto found = std::lower_bound(rows_.begin(), rows_.end(), errors.rows[index]);
    const auto row = static_cast<std::size_t>(found - rows_.begin());
    ++point.layers[row];
    for (std::size_t k = 0; k < directions; ++k) {
      const double share = static_cast<double>(errors.values[index * directions + k]) / norms_[row];
      if (!(std::abs(share) <= largest)) {
        point.out_of_range = true;
        continue;
      }
      point.sums[row * directions + k] += std::llround(share / unit);
    }
  }
}

double SummedErrors::mean(std::size_t point) const {
  const PointSums& of_point = points_[point];
  double total = 0;
  std::size_t rows = 0;
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    if (static_cast<std::size_t>(of_point.layers[row]) != layer_count_) continue;
    const std::size_t directions = of_point.sums.size() / rows_.size();
    double squared = 0;
    for (std::size_t k = 0; k < directions; ++k) {
      const double share = static_cast<double>(of_point.sums[row * directions + k]) * unit;
      squared += share * share;
    }
    total += std::sqrt(squared);
    ++rows;
  }
  if (rows == 0 || of_point.out_of_range) return std::numeric_limits<double>::quiet_NaN();
  return total / static_cast<double>(rows);
}

}  // namespace evictsim::analysis
