#pragma once
/// \file
/// Lengths of matrix-vector products, for many vectors, without writing the products down.

#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::models {

/// |M x|^2 for a fixed M [height, width], packed once for the product's inner loop. Results of a vector do not depend
/// on which others it is computed with.
class ProductNorms {
 public:
  ProductNorms() = default;
  /// Any M.
  static ProductNorms of(const Matrix& matrix);
  /// M = what stands on and above the diagonal of `matrix`; the zeros below it are not multiplied.
  static ProductNorms of_upper(const Eigen::MatrixXf& matrix);

  [[nodiscard]] bool empty() const { return panels_.empty(); }
  /// out[i] = |M x|^2 for every row x of `rows` [N, width].
  void squared(const Matrix& rows, std::span<double> out) const;

 private:
  /// A few rows of M side by side: for each component of x from `first` on, its factors in all of them.
  struct Panel {
    Index first = 0;  ///< components before this one have factor 0 in every row
    Index place = 0;  ///< in `packed_`
  };
  ProductNorms(Index height, Index width, bool triangular);

  Index width_ = 0;
  std::vector<Panel> panels_;
  Eigen::VectorXf packed_;
};

}  // namespace evictsim::models
