#pragma once
/// \file
/// The matrix types that cross library borders: row-major float32, and views of somebody else's memory.

#include <Eigen/Core>

namespace evictsim::models {

using Index = Eigen::Index;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MatrixDouble = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// Read-only view of rows that lie `outerStride()` floats apart.
using MatrixView = Eigen::Map<const Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

/// View of `rows` x `columns` floats; rows are `stride` floats apart (default: dense).
inline MatrixView view(const float* data, Index rows, Index columns, Index stride = -1) {
  return {data, rows, columns, Eigen::OuterStride<>(stride < 0 ? columns : stride)};
}

/// Sum of `count` floats in double: four running sums, element i in sum i % 4, so that they can run side by side.
inline double sum_in_double(const float* values, Index count) {
  double sums[4] = {0, 0, 0, 0};
  Index i = 0;
  for (; i + 4 <= count; i += 4) {
    for (Index lane = 0; lane < 4; ++lane) sums[lane] += static_cast<double>(values[i + lane]);
  }
  for (; i < count; ++i) sums[i % 4] += static_cast<double>(values[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace evictsim::models
