#include "models/packed_matrix.h"

#include <algorithm>
#include <array>

#include "models/register_block.h"

namespace evictsim::models {
namespace {

/// Sizes of the pieces worked on at once: a panel's piece stays in the first-level cache, the rest in the second.
constexpr Index piece_width = 384;
constexpr Index piece_panels = 8;
constexpr Index piece_vectors = 32 * block_rows;

}  // namespace

PackedMatrix::PackedMatrix(Index height, Index width, bool triangular) : height_(height), width_(width) {
  Index place = 0;
  for (Index row = 0; row < height; row += block_columns) {
    const Index first = triangular ? row : 0;
    panels_.push_back({first, place});
    place += (width - first) * block_columns;
  }
  packed_.resize(place);
}

PackedMatrix PackedMatrix::of(const Matrix& matrix) {
  PackedMatrix packed(matrix.rows(), matrix.cols(), false);
  for (Index row = 0; row < matrix.rows(); row += block_columns) {
    const Index count = std::min(block_columns, matrix.rows() - row);
    float* to = packed.packed_.data() + packed.panels_[static_cast<std::size_t>(row / block_columns)].place;
    if (count < block_columns) std::fill(to, to + packed.width_ * block_columns, 0.0F);
    Eigen::Map<Matrix>(to, packed.width_, block_columns).leftCols(count) = matrix.middleRows(row, count).transpose();
  }
  return packed;
}

PackedMatrix PackedMatrix::of_upper(const Eigen::MatrixXf& matrix) {
  const Index height = std::min(matrix.rows(), matrix.cols());
  PackedMatrix packed(height, matrix.cols(), true);
  for (const Panel& panel : packed.panels_) {
    float* to = packed.packed_.data() + panel.place;
    const Index rows = std::min(block_columns, height - panel.first);
    for (Index k = panel.first; k < matrix.cols(); ++k, to += block_columns) {
      const Index count = std::min(rows, k - panel.first + 1);
      std::copy_n(&matrix(panel.first, k), count, to);
      std::fill(to + count, to + block_columns, 0.0F);
    }
  }
  return packed;
}

template <typename Take>
void PackedMatrix::multiply(const Matrix& rows, const Take& take) const {
  // Where nothing was evicted the difference is zero, and needs no product.
  std::vector<Index> nonzero;
  for (Index row = 0; row < rows.rows(); ++row) {
    if ((rows.row(row).array() != 0.0F).any()) nonzero.push_back(row);
  }
  thread_local Matrix products;
  products.resize(piece_vectors, piece_panels * block_columns);
  for (Index top = 0; top < std::ssize(nonzero); top += piece_vectors) {
    const std::span<const Index> piece =
        std::span(nonzero)
            .subspan(static_cast<std::size_t>(top))
            .first(static_cast<std::size_t>(std::min(piece_vectors, std::ssize(nonzero) - top)));
    for (std::size_t left = 0; left < panels_.size(); left += piece_panels) {
      const std::size_t right = std::min(left + piece_panels, panels_.size());
      for (Index begin = panels_[left].first; begin < width_; begin += piece_width) {
        const Index end = std::min(begin + piece_width, width_);
        for (std::size_t p = left; p < right; ++p) {
          const Panel& panel = panels_[p];
          const Index first = std::max(begin, panel.first);
          if (first >= end) continue;
          const float* factors = packed_.data() + panel.place + (first - panel.first) * block_columns;
          const Index column = static_cast<Index>(p - left) * block_columns;
          for (std::size_t v = 0; v < piece.size(); v += block_rows) {
            std::array<const float*, block_rows> vectors{};
            for (std::size_t i = 0; i < vectors.size(); ++i) {
              // Short of six vectors the last one stands in; its spare products lie behind those that are read.
              vectors[i] = rows.row(piece[std::min(v + i, piece.size() - 1)]).data() + first;
            }
            add_products([&](Index i, Index k) { return vectors[static_cast<std::size_t>(i)][k]; }, factors,
                         end - first, first == panel.first, &products(static_cast<Index>(v), column), products.cols());
          }
        }
      }
      const Index columns = static_cast<Index>(right - left) * block_columns;
      for (std::size_t v = 0; v < piece.size(); ++v) {
        take(piece[v], static_cast<Index>(left) * block_columns, products.row(static_cast<Index>(v)).head(columns));
      }
    }
  }
}

Matrix PackedMatrix::products(const Matrix& rows) const {
  Matrix out = Matrix::Zero(rows.rows(), height_);
  multiply(rows, [&](Index row, Index first, const auto& products) {
    const Index count = std::min(products.size(), height_ - first);
    out.row(row).segment(first, count) = products.head(count);
  });
  return out;
}

void PackedMatrix::squared_norms(const Matrix& rows, std::span<double> out) const {
  std::fill(out.begin(), out.end(), 0.0);
  multiply(rows, [&](Index row, Index, const auto& products) {
    out[static_cast<std::size_t>(row)] += static_cast<double>(products.squaredNorm());
  });
}

}  // namespace evictsim::models
