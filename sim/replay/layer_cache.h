#pragma once
/// \file
/// The cache of one layer under one policy: what is resident, and the views of it that policies get.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "policies/cache_view.h"
#include "policies/needs.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/prompt_features.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// Seeds of the random numbers a policy may draw: a pure function of these.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t sequence = 0;
};

/// Row number that no sequence reaches: an entry that is never evicted.
inline constexpr std::int32_t never_evicted = std::numeric_limits<std::int32_t>::max();

/// Residency of one layer, and the view of it. Starts with the whole prompt resident.
class LayerCache final : public policies::CacheView {
 public:
  LayerCache(const LayerData& layer, const PromptFeatures& features, policies::Granularity granularity, RandomKey key);

  // Residency, changed by the engine only.
  /// Token row `row` arrives: it is resident in every head from now on.
  void append(std::int32_t row);
  /// Keeps, in `head`, only the entries at `places` (ascending) of `entries(head)`; the others were attended last by
  /// the newest row.
  void keep(int head, std::span<const std::int32_t> places);
  /// [T] for `evaluate_resident`: the last token row that attends each entry.
  [[nodiscard]] std::span<const std::int32_t> last_row(int head) const { return last_row_[index(head)]; }
  [[nodiscard]] CacheHead cache_head(int head) const;
  [[nodiscard]] Index longest() const;
  /// The tile that decode rows seen since belong to; attention is read off it where it can be. May be null.
  void set_tile(const Tile* tile) { tile_ = tile; }

  // LayerView
  [[nodiscard]] const models::Geometry& geometry() const override { return layer_.geometry(); }
  [[nodiscard]] const models::Rope& rope() const override { return layer_.rope(); }
  [[nodiscard]] int layer() const override { return layer_.layer(); }
  [[nodiscard]] Index prompt_length() const override { return layer_.prompt_length(); }
  [[nodiscard]] Index seen() const override { return seen_; }
  [[nodiscard]] std::span<const std::int32_t> positions() const override;
  [[nodiscard]] int heads() const override { return static_cast<int>(entries_.size()); }
  [[nodiscard]] policies::QueryHeads query_heads(int head) const override;
  [[nodiscard]] std::span<const std::int32_t> entries(int head) const override { return entries_[index(head)]; }
  [[nodiscard]] std::span<const float> channel(traces::Channel channel, int index) const override;

  // CacheView
  [[nodiscard]] MatrixView keys(int head) const override;
  [[nodiscard]] MatrixView values(int head) const override;
  [[nodiscard]] std::span<const std::int32_t> query_rows() const override;
  [[nodiscard]] MatrixView queries(int query_head) const override;
  [[nodiscard]] MatrixView output_weights(int query_head) const override;
  [[nodiscard]] MatrixView layer_input() const override;
  [[nodiscard]] MatrixView second_pass_queries(int query_head) const override;
  [[nodiscard]] std::span<const traces::Span> second_pass_chunks() const override;
  [[nodiscard]] MatrixView second_pass_keys(int kv_head) const override;
  [[nodiscard]] MatrixView window_attention(int query_head, Index rows) const override;
  [[nodiscard]] std::span<const double> accumulated_attention(int query_head) const override;
  [[nodiscard]] std::span<const traces::Span> spans(std::string_view kind) const override;
  [[nodiscard]] std::mt19937_64 generator(int head) const override;

  /// Softmax of a row's query over the resident entries it may see, in the order of `entries`; 0 for newer ones.
  void resident_attention(int query_head, std::int32_t row, std::span<float> out) const;
  /// The cache head that a query head reads.
  [[nodiscard]] int head_of(int query_head) const;

 private:
  static std::size_t index(int head) { return static_cast<std::size_t>(head); }
  [[nodiscard]] bool whole_prompt() const { return seen_ == layer_.prompt_length() && !cut_; }
  void forget_gathered();
  [[nodiscard]] std::span<const float> channel_row(traces::Channel channel, const traces::Tensor& tensor,
                                                   int index) const;
  [[nodiscard]] MatrixView gather(const MatrixView& all, int head, std::vector<std::optional<Matrix>>& memo) const;

  const LayerData& layer_;
  const PromptFeatures& features_;
  policies::Granularity granularity_;
  RandomKey key_;
  const Tile* tile_ = nullptr;
  Index seen_;
  bool cut_ = false;
  std::vector<std::vector<std::int32_t>> entries_;   ///< [head] ascending rows
  std::vector<std::vector<std::int32_t>> last_row_;  ///< [head][T]
  // Gathered copies handed out as views; valid until the residency changes.
  mutable std::vector<std::optional<Matrix>> keys_, values_;
  mutable std::vector<std::optional<Matrix>> window_;          ///< [Hq]
  mutable std::map<int, std::vector<float>> channel_columns_;  ///< of entropy_top, by column
};

/// The view of one decode step.
class DecodeStep final : public policies::StepView {
 public:
  DecodeStep(const LayerCache& cache, std::int32_t row);
  [[nodiscard]] const models::Geometry& geometry() const override { return cache_.geometry(); }
  [[nodiscard]] const models::Rope& rope() const override { return cache_.rope(); }
  [[nodiscard]] int layer() const override { return cache_.layer(); }
  [[nodiscard]] Index prompt_length() const override { return cache_.prompt_length(); }
  [[nodiscard]] Index seen() const override { return cache_.seen(); }
  [[nodiscard]] std::span<const std::int32_t> positions() const override { return cache_.positions(); }
  [[nodiscard]] int heads() const override { return cache_.heads(); }
  [[nodiscard]] policies::QueryHeads query_heads(int head) const override { return cache_.query_heads(head); }
  [[nodiscard]] std::span<const std::int32_t> entries(int head) const override { return cache_.entries(head); }
  [[nodiscard]] std::span<const float> channel(traces::Channel channel, int index) const override {
    return cache_.channel(channel, index);
  }
  [[nodiscard]] Index row() const override { return row_; }
  [[nodiscard]] std::span<const float> attention(int query_head) const override;

 private:
  const LayerCache& cache_;
  std::int32_t row_;
  mutable std::vector<std::vector<float>> attention_;  ///< [Hq], filled when asked for
};

}  // namespace evictsim::sim
