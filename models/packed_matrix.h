#pragma once
/// \file
/// A matrix that multiplies many vectors, packed once for the product's inner loop.

#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::models {

/// M [height, width]. Results of a vector do not depend on which others it is computed with.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Any M.
  static PackedMatrix of(const Matrix& matrix);
  /// M = what stands on and above the diagonal of `matrix`; the zeros below it are not multiplied.
  static PackedMatrix of_upper(const Eigen::MatrixXf& matrix);

  [[nodiscard]] Index height() const { return height_; }
  /// M x for every row x of `rows` [N, width]: [N, height].
  [[nodiscard]] Matrix products(const Matrix& rows) const;
  /// out[i] = |M x|^2 for every row x of `rows` [N, width], without writing the products down.
  void squared_norms(const Matrix& rows, std::span<double> out) const;

 private:
  /// A few rows of M side by side: for each component of x from `first` on, its factors in all of them.
  struct Panel {
    Index first = 0;  ///< components before this one have factor 0 in every row
    Index place = 0;  ///< in `packed_`
  };
  PackedMatrix(Index height, Index width, bool triangular);
  /// Calls take(i, first, products) for rows i of `rows` that are not zero: components of M x from `first` on, with
  /// zeros behind the last.
  template <typename Take>
  void multiply(const Matrix& rows, const Take& take) const;

  Index height_ = 0;
  Index width_ = 0;
  std::vector<Panel> panels_;
  Eigen::VectorXf packed_;
};

}  // namespace evictsim::models
