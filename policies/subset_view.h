#pragma once
/// \file
/// A part of a cache as if it were the whole: what scorers see that work chunk by chunk or block by block.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "policies/cache_view.h"

namespace evictsim::policies {

/// Rows [first_row, last_row) of another view, numbered from 0, and chosen entries among them. Attention is a softmax
/// over these entries alone; nothing outside the rows is visible. Refers to the other view.
class SubsetView final : public CacheView {
 public:
  /// `places` [cache head]: ascending places in `base.entries(head)` whose rows lie in the range.
  SubsetView(const CacheView& base, Index first_row, Index last_row, std::vector<std::vector<std::int32_t>> places);
  /// With every entry of the range.
  SubsetView(const CacheView& base, Index first_row, Index last_row);

  /// The places given.
  [[nodiscard]] std::span<const std::int32_t> places(int head) const { return places_[index(head)]; }

  [[nodiscard]] const models::Geometry& geometry() const override { return base_.geometry(); }
  [[nodiscard]] const models::Rope& rope() const override { return base_.rope(); }
  [[nodiscard]] int layer() const override { return base_.layer(); }
  [[nodiscard]] Index prompt_length() const override;
  [[nodiscard]] Index seen() const override { return last_row_ - first_row_; }
  [[nodiscard]] std::span<const std::int32_t> positions() const override;
  [[nodiscard]] int heads() const override { return base_.heads(); }
  [[nodiscard]] QueryHeads query_heads(int head) const override { return base_.query_heads(head); }
  [[nodiscard]] std::span<const std::int32_t> entries(int head) const override { return entries_[index(head)]; }
  [[nodiscard]] std::span<const float> channel(traces::Channel channel, int index) const override;
  [[nodiscard]] models::MatrixView keys(int head) const override;
  [[nodiscard]] models::MatrixView values(int head) const override;
  [[nodiscard]] std::span<const std::int32_t> query_rows() const override { return query_rows_; }
  [[nodiscard]] models::MatrixView queries(int query_head) const override;
  [[nodiscard]] models::MatrixView output_weights(int query_head) const override {
    return base_.output_weights(query_head);
  }
  [[nodiscard]] models::MatrixView layer_input() const override;
  /// Throws Error(unsupported): a second pass reads the whole context.
  [[nodiscard]] models::MatrixView second_pass_queries(int query_head) const override;
  [[nodiscard]] std::span<const traces::Span> second_pass_chunks() const override;
  [[nodiscard]] models::MatrixView window_attention(int query_head, Index rows) const override;
  [[nodiscard]] std::span<const double> accumulated_attention(int query_head) const override;
  [[nodiscard]] std::span<const traces::Span> spans(std::string_view kind) const override;
  [[nodiscard]] std::mt19937_64 generator(int head) const override;

 private:
  static std::size_t index(int head) { return static_cast<std::size_t>(head); }
  [[nodiscard]] int head_of(int query_head) const;
  /// Softmax of a row over the entries up to it, [entries]; throws where the row has no query.
  [[nodiscard]] std::vector<double> attention_of(int query_head, Index row) const;
  models::MatrixView gathered(const models::MatrixView& all, int head, std::map<int, models::Matrix>& memo) const;

  const CacheView& base_;
  Index first_row_;
  Index last_row_;
  std::vector<std::vector<std::int32_t>> places_;   ///< [head] in the base
  std::vector<std::vector<std::int32_t>> entries_;  ///< [head] rows, renumbered
  std::vector<std::int32_t> query_rows_;            ///< renumbered
  Index first_query_ = 0;                           ///< place of query_rows_.front() among the base's
  mutable std::map<int, models::Matrix> keys_, values_, window_;
  mutable std::map<int, std::vector<double>> accumulated_;
  mutable std::map<std::string, std::vector<traces::Span>> spans_;
};

}  // namespace evictsim::policies
