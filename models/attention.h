#pragma once
/// \file
/// Softmax attention of one KV head and its group of query heads: a float64 reference, and the float32 kernels that a
/// replay runs on. Keys are never repeated for the group: the queries of the group are columns of one product.

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::models {

/// What turns q.k into a logit: `scale`, then `softcap` (c * tanh(logit / c), 0 = none).
struct LogitRule {
  double scale = 1;
  double softcap = 0;
  /// The logit of a dot product q.k.
  [[nodiscard]] double logit(double dot) const {
    return softcap > 0 ? softcap * std::tanh(scale * dot / softcap) : scale * dot;
  }
};

/// Half-open range of entries that a query may see.
struct EntryRange {
  Index first = 0;
  Index last = 0;
};

/// Entries visible to token row `row`: every earlier row and itself, at most `sliding_window` positions back
/// (0 = full attention; a window of w holds w entries, the row itself included).
EntryRange visible_entries(std::span<const std::int32_t> positions, Index row, int sliding_window);

/// Float64 attention of one query over chosen entries; the simple version that kernels are tested against.
/// `query` [d], `keys` and `values` [T, d], `entries` rows of them. Returns the softmax over `entries`, in their order.
std::vector<double> reference_weights(std::span<const float> query, const MatrixView& keys,
                                      std::span<const std::int32_t> entries, const LogitRule& rule);
/// The weighted mean of `values` rows for `weights` over `entries`: [d].
std::vector<double> reference_output(std::span<const double> weights, const MatrixView& values,
                                     std::span<const std::int32_t> entries);

/// Attention of a set of queries, one column per query: entry-major, so that what one entry receives is contiguous.
struct AttentionColumns {
  Matrix probability;  ///< [entries, queries] softmax over the visible entries; 0 where not visible
  Matrix surprise;     ///< [entries, queries] p ln p (0 where p is 0); empty unless asked for
};

/// Logits of `queries` [C, d] over every row of `keys` [T, d], scaled and capped: out [T, C].
void logits(const MatrixView& keys, const Matrix& queries, const LogitRule& rule, Matrix& out);

/// Softmax attention of `queries` [C, d] over the first `keys.rows()` entries. `visible` [C] limits each column; an
/// empty range gives a column of zeros. Sums run in double, in entry order.
/// Throws Error(invalid_value) where q.k overflows float32.
void attend(const MatrixView& keys, const Matrix& queries, std::span<const EntryRange> visible, const LogitRule& rule,
            bool with_surprise, AttentionColumns& out);

/// Adds, for every entry, the attention it received from `queries` token rows to `sums` [G][n] (double):
/// `head_queries[g]` is query head g of the group, [n, d], row i = token row i; causal, `sliding_window` in positions.
/// Works in tiles of rows; nothing of size n x n is held.
void accumulate_attention(const MatrixView& keys, std::span<const MatrixView> head_queries,
                          std::span<const std::int32_t> positions, int sliding_window, const LogitRule& rule,
                          std::span<std::vector<double>> sums);

}  // namespace evictsim::models
