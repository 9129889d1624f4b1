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
      probability_(most_waiting),
      last_(Matrix::Zero(most_waiting, block_rows)),
      own_(most_waiting, columns),
      value_(totals_.output.cols() * most_waiting),
      mass_(Eigen::RowVectorXf::Zero(columns)),
      surprise_(Eigen::RowVectorXf::Zero(columns)) {
  // What no entry writes: the columns that fill up the last block.
  if (dim % block_columns != 0) value_.tail(block_columns * most_waiting).setZero();
}

AttentionSums::AttentionSums(const AttentionTotals& start, Index first, Index columns, Index dim)
    : AttentionSums(columns, dim) {
  totals_.output.topRows(columns) = start.output.middleRows(first, columns);
  totals_.mass = start.mass.segment(first, columns);
  totals_.surprise = start.surprise.segment(first, columns);
}

void AttentionSums::add(const float* probability, const float* surprise, const float* value) {
  using Row = Eigen::Map<const Eigen::RowVectorXf>;
  mass_ += Row(probability, columns_);
  surprise_ += Row(surprise, columns_);
  if (++added_ == rows_in_float) add_to_mass();

  probability_[static_cast<std::size_t>(waiting_)] = probability;
  std::copy(probability + columns_ / block_rows * block_rows, probability + columns_, &last_(waiting_, 0));
  float* to = value_.data() + waiting_ * block_columns;
  Index c = 0;
  for (; c + block_columns <= dim_; c += block_columns, to += most_waiting * block_columns) {
    std::memcpy(to, value + c, block_columns * sizeof(float));
  }
  std::copy(value + c, value + dim_, to);
  if (++waiting_ == most_waiting) add_outputs();
}

void AttentionSums::add_outputs() {
  Matrix& output = totals_.output;
  const auto add_block = [&](Index row, const auto& probability) {
    for (Index column = 0; column < output.cols(); column += block_columns) {
      models::add_products(probability, value_.data() + column * most_waiting, waiting_, false, &output(row, column),
                           output.cols());
    }
  };
  Index row = 0;
  for (; row + block_rows <= columns_; row += block_rows) {
    add_block(row, [first = probability_.data(), row](Index i, Index k) { return first[k][row + i]; });
  }
  if (row < columns_) add_block(row, [this](Index i, Index k) { return last_(k, i); });
  waiting_ = 0;
}

void AttentionSums::add_to_mass() {
  totals_.mass += mass_.cast<double>();
  totals_.surprise += surprise_.cast<double>();
  mass_.setZero();
  surprise_.setZero();
  added_ = 0;
}

const AttentionTotals& AttentionSums::totals() {
  if (waiting_ > 0) add_outputs();
  add_to_mass();
  return totals_;
}

}  // namespace evictsim::sim
