#include "models/projection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <Eigen/Cholesky>

namespace evictsim::models {
namespace {

/// Rows of W_O that are widened to double at once.
constexpr Index gram_rows = 256;

void add_squared_norms(const Matrix& rows, std::span<double> out) {
  for (Index i = 0; i < rows.rows(); ++i) {
    out[static_cast<std::size_t>(i)] += rows.row(i).cast<double>().squaredNorm();
  }
}

}  // namespace

OutputProjection::OutputProjection(Matrix w_o, std::optional<Norm> norm)
    : w_o_(std::move(w_o)), norm_(std::move(norm)) {
  if (!norm_) norms_ = ProductNorms::of(w_o_);
}

void OutputProjection::expect_rows(Index rows) {
  if (norm_ || uses_factor_) return;  // behind a norm the whole vector is needed, not its length
  const auto width = static_cast<double>(w_o_.cols());
  const auto height = static_cast<double>(w_o_.rows());
  // In float multiply-adds of a plain product; one in double counts as two, and the factorisation reaches two thirds
  // of full speed.
  const double factorisation = 3 * (width * width * height / 2 + width * width * width / 6);
  const double saved = static_cast<double>(rows) * width * (height - width / 2);
  if (saved <= factorisation) return;
  MatrixDouble gram = MatrixDouble::Zero(w_o_.cols(), w_o_.cols());
  MatrixDouble wide;
  for (Index first = 0; first < w_o_.rows(); first += gram_rows) {
    wide = w_o_.middleRows(first, std::min(gram_rows, w_o_.rows() - first)).cast<double>();
    gram.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose());
  }
  const Eigen::LLT<Eigen::Ref<MatrixDouble>> cholesky(gram);  // in place
  if (cholesky.info() != Eigen::Success) return;              // rank-deficient W_O: the plain product stays
  norms_ = ProductNorms::of_transposed_lower(gram);
  uses_factor_ = true;
}

Matrix OutputProjection::project(const Matrix& rows) const { return rows * w_o_.transpose(); }

void OutputProjection::output_squared(const Matrix& full, std::span<double> out) const {
  if (!norm_) {
    norms_.squared(full, out);
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
      norms_.squared(difference, out);
    }
    return;
  }
  Matrix y = project(full);
  Matrix cut = project(difference);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) += y;
  norm_->apply(y);
  norm_->apply(cut);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) -= y;
  std::fill(out.begin(), out.end(), 0.0);
  add_squared_norms(cut, out);
}

}  // namespace evictsim::models
