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

}  // namespace evictsim::models
