#include "sim/replay/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/register_block.h"

namespace evictsim::sim {
namespace {

using models::block_columns;
using models::block_rows;

/// Entries per product: what is gathered for it stays in the processor's nearest caches.
constexpr Index most_waiting = 64;
constexpr Index rows_in_float = 8;

Index blocks(Index size, Index block) { return (size + block - 1) / block; }

}  // namespace

double AttentionTotals::renormalised_entropy(Index column) const {
  return mass[column] > 0 ? std::max(0.0, std::log(mass[column]) - surprise[column] / mass[column]) : 0.0;
}

AttentionSums::AttentionSums(Index columns, Index dim)
    : columns_(columns),
      dim_(dim),
      totals_{
          .output = Matrix::Zero(blocks(columns, block_rows) * block_rows, blocks(dim, block_columns) * block_columns),
          .mass = Eigen::RowVectorXd::Zero(columns),
          .surprise = Eigen::RowVectorXd::Zero(columns)},
      probability_(totals_.output.rows() * most_waiting),
      value_(totals_.output.cols() * most_waiting),
      mass_(Eigen::RowVectorXf::Zero(columns)),
      surprise_(Eigen::RowVectorXf::Zero(columns)) {
  // What no entry writes: the columns that fill up the last block.
  if (columns % block_rows != 0) probability_.tail(block_rows * most_waiting).setZero();
  if (dim % block_columns != 0) value_.tail(block_columns * most_waiting).setZero();
}

void AttentionSums::add(const float* probability, const float* surprise, const float* value) {
  using Row = Eigen::Map<const Eigen::RowVectorXf>;
  mass_ += Row(probability, columns_);
  surprise_ += Row(surprise, columns_);
  if (++added_ % rows_in_float == 0) add_to_mass();

  float* to = probability_.data() + waiting_ * block_rows;
  Index c = 0;
  for (; c + block_rows <= columns_; c += block_rows, to += most_waiting * block_rows) {
    std::memcpy(to, probability + c, block_rows * sizeof(float));
  }
  std::copy(probability + c, probability + columns_, to);
  to = value_.data() + waiting_ * block_columns;
  for (c = 0; c + block_columns <= dim_; c += block_columns, to += most_waiting * block_columns) {
    std::memcpy(to, value + c, block_columns * sizeof(float));
  }
  std::copy(value + c, value + dim_, to);
  if (++waiting_ == most_waiting) add_outputs();
}

void AttentionSums::add_outputs() {
  Matrix& output = totals_.output;
  for (Index row = 0; row < output.rows(); row += block_rows) {
    const float* left = probability_.data() + row * most_waiting;
    for (Index column = 0; column < output.cols(); column += block_columns) {
      models::add_products([left](Index i, Index k) { return left[k * block_rows + i]; },
                           value_.data() + column * most_waiting, waiting_, false, &output(row, column), output.cols());
    }
  }
  waiting_ = 0;
}

void AttentionSums::add_to_mass() {
  totals_.mass += mass_.cast<double>();
  totals_.surprise += surprise_.cast<double>();
  mass_.setZero();
  surprise_.setZero();
}

const AttentionTotals& AttentionSums::totals() {
  if (waiting_ > 0) add_outputs();
  add_to_mass();
  return totals_;
}

}  // namespace evictsim::sim
