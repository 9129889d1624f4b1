#include "models/projection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <Eigen/QR>

namespace evictsim::models {
namespace {

void add_squared_norms(const Matrix& rows, std::span<double> out) {
  for (Index i = 0; i < rows.rows(); ++i) {
    out[static_cast<std::size_t>(i)] += rows.row(i).cast<double>().squaredNorm();
  }
}

}  // namespace

OutputProjection::OutputProjection(Matrix w_o, std::optional<Norm> norm)
    : w_o_(std::move(w_o)), norm_(std::move(norm)) {
  if (!norm_) packed_ = PackedMatrix::of(w_o_);
}

void OutputProjection::expect_rows(Index rows) {
  if (norm_ || uses_factor_) return;  // behind a norm the whole vector is needed, not its length
  const auto width = static_cast<double>(w_o_.cols());
  const auto height = static_cast<double>(std::min(w_o_.rows(), w_o_.cols()));  // of the factor
  // Multiply-adds; those of the factorisation run at half the speed of a product.
  const double longer = std::max(width, static_cast<double>(w_o_.rows()));
  const double factorisation = 2 * height * height * (longer - height / 3);
  const double saved =
      static_cast<double>(rows) * (static_cast<double>(w_o_.rows()) * width - height * (width - height / 2));
  if (saved <= factorisation) return;
  Eigen::MatrixXf factor = w_o_;
  const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXf>> in_place(factor);
  packed_ = PackedMatrix::of_upper(factor);
  uses_factor_ = true;
}

Matrix OutputProjection::project(const Matrix& rows) const { return rows * w_o_.transpose(); }

void OutputProjection::output_squared(const Matrix& full, std::span<double> out) const {
  if (!norm_) {
    packed_.squared_norms(full, out);
    return;
  }
  Matrix y = project(full);
  norm_->apply(y);
  std::fill(out.begin(), out.end(), 0.0);
  add_squared_norms(y, out);
}

void OutputProjection::error_squared(const Matrix& full, const Matrix& difference, std::span<double> out) const {
  if (!norm_) {
    // What keeps everything differs nowhere.
    if (difference.isZero(0.0F)) {
      std::fill(out.begin(), out.end(), 0.0);
    } else {
      packed_.squared_norms(difference, out);
    }
    return;
  }
  std::fill(out.begin(), out.end(), 0.0);
  add_squared_norms(error_behind_norm(full, difference), out);
}

Matrix OutputProjection::error_behind_norm(const Matrix& full, const Matrix& difference) const {
  Matrix y = project(full);
  Matrix cut = project(difference);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) += y;
  norm_->apply(y);
  norm_->apply(cut);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) -= y;
  return cut;
}

void OutputProjection::look_along(const Matrix& directions) {
  along_ = PackedMatrix::of(norm_ ? directions : Matrix(directions * w_o_));
}

Matrix OutputProjection::error_along(const Matrix& full, const Matrix& difference) const {
  if (!norm_ || difference.isZero(0.0F)) return along_.products(difference);
  return along_.products(error_behind_norm(full, difference));
}

}  // namespace evictsim::models
