#include "models/projection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <Eigen/Cholesky>

namespace evictsim::models {
namespace {

/// Columns per block of the triangular product: eight blocks do 9/16 of the full product's work.
Index block_columns(Index width) { return std::max<Index>(64, (width / 8 + 15) / 16 * 16); }

void add_squared_norms(const Matrix& rows, std::span<double> out) {
  for (Index i = 0; i < rows.rows(); ++i) {
    out[static_cast<std::size_t>(i)] += rows.row(i).cast<double>().squaredNorm();
  }
}

}  // namespace

OutputProjection::OutputProjection(Matrix w_o, std::optional<OutputNorm> norm)
    : w_o_(std::move(w_o)), norm_(std::move(norm)) {}

void OutputProjection::expect_rows(Index rows) {
  if (norm_ || factor_.size() > 0) return;  // behind a norm the whole vector is needed, not its length
  const auto width = static_cast<double>(w_o_.cols());
  const auto height = static_cast<double>(w_o_.rows());
  // In float multiply-adds of a plain product. One in double counts as two, and the triangular kernels run at about a
  // third of full speed. 9/16: see block_columns.
  const double factorisation = 6 * (width * width * height / 2 + width * width * width / 6);
  const double saved = static_cast<double>(rows) * width * (height - width * 9 / 16);
  if (saved <= factorisation) return;
  MatrixDouble gram = MatrixDouble::Zero(w_o_.cols(), w_o_.cols());
  const MatrixDouble wide = w_o_.cast<double>();
  gram.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose());
  const Eigen::LLT<MatrixDouble> cholesky(gram);
  if (cholesky.info() != Eigen::Success) return;  // rank-deficient W_O: the plain product stays
  factor_ = MatrixDouble(cholesky.matrixL()).cast<float>();
}

Matrix OutputProjection::project(const Matrix& rows) const { return rows * w_o_.transpose(); }

void OutputProjection::squared_norms(const Matrix& rows, std::span<double> out) const {
  std::fill(out.begin(), out.end(), 0.0);
  if (factor_.size() == 0) {
    add_squared_norms(project(rows), out);
    return;
  }
  const Index width = factor_.cols();
  const Index step = block_columns(width);
  Matrix block;
  for (Index first = 0; first < width; first += step) {
    const Index columns = std::min(step, width - first);
    block.noalias() = rows.rightCols(width - first) * factor_.block(first, first, width - first, columns);
    add_squared_norms(block, out);
  }
}

void OutputProjection::apply_norm(Matrix& rows) const {
  const Eigen::Map<const Eigen::RowVectorXf> weight(norm_->weight.data(), static_cast<Index>(norm_->weight.size()));
  const float offset = norm_->kind == traces::NormKind::rms_plus_one ? 1.0F : 0.0F;
  for (Index i = 0; i < rows.rows(); ++i) {
    auto row = rows.row(i);
    if (norm_->kind == traces::NormKind::layer) row.array() -= row.mean();
    const double mean_square = row.cast<double>().squaredNorm() / static_cast<double>(row.size());
    const auto inverse = static_cast<float>(1.0 / std::sqrt(mean_square + norm_->epsilon));
    row.array() *= inverse * (weight.array() + offset);
  }
}

void OutputProjection::output_squared(const Matrix& full, std::span<double> out) const {
  if (!norm_) {
    squared_norms(full, out);
    return;
  }
  Matrix y = project(full);
  apply_norm(y);
  std::fill(out.begin(), out.end(), 0.0);
  add_squared_norms(y, out);
}

void OutputProjection::error_squared(const Matrix& full, const Matrix& difference, std::span<double> out) const {
  if (!norm_) {
    // What keeps everything differs nowhere.
    if (difference.isZero(0.0F)) {
      std::fill(out.begin(), out.end(), 0.0);
    } else {
      squared_norms(difference, out);
    }
    return;
  }
  Matrix y = project(full);
  Matrix cut = project(difference);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) += y;
  apply_norm(y);
  apply_norm(cut);
  for (Index first = 0; first < cut.rows(); first += y.rows()) cut.middleRows(first, y.rows()) -= y;
  std::fill(out.begin(), out.end(), 0.0);
  add_squared_norms(cut, out);
}

}  // namespace evictsim::models
