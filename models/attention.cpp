#include "models/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "traces/error.h"

namespace evictsim::models {
namespace {

/// Rows of queries per tile: wide enough for full speed of the product, small enough for the cache.
constexpr Index tile_rows = 64;

/// Eigen's exp() never falls below exp(-88.7), not even at minus infinity. Exponents are therefore limited to
/// `lowest_exponent` and `nothing`, just above its exp(), is taken off: what is hidden or that far down gets exactly 0,
/// and weights that matter (above 1e-30) keep their bits or nearly so.
constexpr float lowest_exponent = -87.0F;
constexpr float nothing = 2e-38F;

}  // namespace

EntryRange visible_entries(std::span<const std::int32_t> positions, Index row, int sliding_window) {
  EntryRange range{0, row + 1};
  if (sliding_window > 0) {
    const std::int32_t oldest = positions[static_cast<std::size_t>(row)] - sliding_window + 1;
    range.first = std::lower_bound(positions.begin(), positions.begin() + row + 1, oldest) - positions.begin();
  }
  return range;
}

std::vector<double> reference_weights(std::span<const float> query, const MatrixView& keys,
                                      std::span<const std::int32_t> entries, const LogitRule& rule) {
  std::vector<double> weights(entries.size());
  double largest = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    double dot = 0;
    for (std::size_t c = 0; c < query.size(); ++c) {
      dot += static_cast<double>(query[c]) * static_cast<double>(keys(entries[i], static_cast<Index>(c)));
    }
    weights[i] = rule.logit(dot);
    largest = std::max(largest, weights[i]);
  }
  double sum = 0;
  for (double& weight : weights) {
    weight = std::exp(weight - largest);
    sum += weight;
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

std::vector<double> reference_output(std::span<const double> weights, const MatrixView& values,
                                     std::span<const std::int32_t> entries) {
  std::vector<double> output(static_cast<std::size_t>(values.cols()), 0.0);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    for (std::size_t c = 0; c < output.size(); ++c) {
      output[c] += weights[i] * static_cast<double>(values(entries[i], static_cast<Index>(c)));
    }
  }
  return output;
}

void logits(const MatrixView& keys, const Matrix& queries, const LogitRule& rule, Matrix& out) {
  // The scale is folded into the queries: C * d products instead of T * C.
  const Matrix scaled = queries * static_cast<float>(rule.scale);
  out.resize(keys.rows(), queries.rows());
  out.noalias() = keys * scaled.transpose();
  if (rule.softcap > 0) {
    const auto cap = static_cast<float>(rule.softcap);
    out.array() = cap * (out.array() / cap).tanh();
  }
}

void attend(const MatrixView& keys, const Matrix& queries, std::span<const EntryRange> visible, const LogitRule& rule,
            bool with_surprise, AttentionColumns& out) {
  const Index entries = keys.rows();
  const Index columns = queries.rows();
  Matrix& p = out.probability;
  logits(keys, queries, rule, p);

  // Rows in [open_first, open_last) are visible to every column; the others are checked one by one.
  Index open_first = 0;
  Index open_last = entries;
  for (const EntryRange& range : visible) {
    open_first = std::max(open_first, range.first);
    open_last = std::min(open_last, range.last);
  }
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  for (Index j = 0; j < entries; ++j) {
    if (j >= open_first && j < open_last) continue;
    for (Index c = 0; c < columns; ++c) {
      const EntryRange& range = visible[static_cast<std::size_t>(c)];
      if (j < range.first || j >= range.last) p(j, c) = hidden;
    }
  }

  Eigen::RowVectorXf largest = p.colwise().maxCoeff();
  // A column that sees nothing: shift by 0 so that exp(-inf) = 0 instead of NaN.
  for (Index c = 0; c < columns; ++c) {
    if (!(largest[c] > hidden)) largest[c] = 0;
  }
  if (with_surprise) out.surprise.resize(entries, columns);
  Eigen::RowVectorXd sums = Eigen::RowVectorXd::Zero(columns);
  for (Index j = 0; j < entries; ++j) {
    auto row = p.row(j).array();
    if (with_surprise) {
      auto surprise = out.surprise.row(j).array();
      surprise = (row - largest.array()).max(lowest_exponent);
      row = (surprise.exp() - nothing).max(0.0F);
      surprise *= row;
    } else {
      row = ((row - largest.array()).max(lowest_exponent).exp() - nothing).max(0.0F);
    }
    sums.array() += row.cast<double>();
  }
  for (Index c = 0; c < columns; ++c) {
    if (std::isfinite(sums[c])) continue;
    throw Error(ErrorCode::invalid_value,
                "q.k overflows float32; the trace's queries or keys are out of any sane range");
  }
  Eigen::RowVectorXf inverse(columns);
  Eigen::RowVectorXf log_sum(columns);
  for (Index c = 0; c < columns; ++c) {
    inverse[c] = sums[c] > 0 ? static_cast<float>(1.0 / sums[c]) : 0.0F;
    log_sum[c] = sums[c] > 0 ? static_cast<float>(std::log(sums[c])) : 0.0F;
  }
  for (Index j = 0; j < entries; ++j) {
    auto row = p.row(j).array();
    if (with_surprise) {
      auto surprise = out.surprise.row(j).array();
      surprise = (surprise - row * log_sum.array()) * inverse.array();
    }
    row *= inverse.array();
  }
}

void accumulate_attention(const MatrixView& keys, std::span<const MatrixView> head_queries,
                          std::span<const std::int32_t> positions, int sliding_window, const LogitRule& rule,
                          std::span<std::vector<double>> sums) {
  const Index count = head_queries.empty() ? 0 : head_queries[0].rows();
  const auto group = static_cast<Index>(head_queries.size());
  AttentionColumns tile;
  for (Index first = 0; first < count; first += tile_rows) {
    const Index rows = std::min(tile_rows, count - first);
    Matrix queries(group * rows, keys.cols());
    std::vector<EntryRange> visible(static_cast<std::size_t>(group * rows));
    for (Index g = 0; g < group; ++g) {
      queries.middleRows(g * rows, rows) = head_queries[static_cast<std::size_t>(g)].middleRows(first, rows);
      for (Index r = 0; r < rows; ++r) {
        visible[static_cast<std::size_t>(g * rows + r)] = visible_entries(positions, first + r, sliding_window);
      }
    }
    // Entries after the tile's last row are seen by none of its queries.
    const Index entries = first + rows;
    attend(view(keys.data(), entries, keys.cols(), keys.outerStride()), queries, visible, rule, false, tile);
    for (Index j = 0; j < entries; ++j) {
      for (Index g = 0; g < group; ++g) {
        sums[static_cast<std::size_t>(g)][static_cast<std::size_t>(j)] +=
            sum_in_double(&tile.probability(j, g * rows), rows);
      }
    }
  }
}

}  // namespace evictsim::models
