#include "policies/attention_record.h"

#include <algorithm>
#include <numeric>

#include "models/attention.h"

namespace evictsim::policies {
namespace {

/// Prompt rows attended at once; the tile holds [prompt, tile_rows] weights.
constexpr Index tile_rows = 64;

std::vector<std::int32_t> first_rows(Index count) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

}  // namespace

void AttentionRecord::begin(const CacheView& prompt) {
  prompt_length_ = prompt.prompt_length();
  seen_ = prompt.seen();
  const auto query_heads = static_cast<std::size_t>(prompt.geometry().num_query_heads);
  sums_.assign(query_heads, std::vector<double>(static_cast<std::size_t>(seen_), 0.0));
  recent_.assign(query_heads, {});
  const std::vector<std::int32_t> rows = first_rows(seen_);
  for (int head = 0; head < prompt.heads(); ++head) {
    const QueryHeads group = prompt.query_heads(head);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      if (options_.span == AttentionSpan::all) {
        add_all_prompt_rows(prompt, head, query_head);
        continue;
      }
      const Index window = std::min(options_.history, seen_);
      if (window == 0) continue;
      const models::MatrixView attention = prompt.window_attention(query_head, window);
      for (Index r = 0; r < window; ++r) {
        const Index row = seen_ - window + r;
        const Eigen::VectorXf column = attention.col(r).head(row + 1);
        add(query_head, std::span(rows).first(static_cast<std::size_t>(row + 1)),
            {column.data(), static_cast<std::size_t>(row + 1)}, row);
      }
    }
  }
}

void AttentionRecord::add_all_prompt_rows(const CacheView& prompt, int head, int query_head) {
  if (options_.signal == AttentionSignal::probability) {
    const std::span<const double> sums = prompt.accumulated_attention(query_head);
    sums_[static_cast<std::size_t>(query_head)].assign(sums.begin(), sums.end());
    return;
  }
  const std::vector<std::int32_t> rows = first_rows(seen_);
  const models::MatrixView queries = prompt.queries(query_head);
  const models::LogitRule rule{.scale = prompt.geometry().attention_scale, .softcap = prompt.geometry().logit_softcap};
  models::AttentionColumns tile;
  for (Index first = 0; first < seen_; first += tile_rows) {
    const Index count = std::min(tile_rows, seen_ - first);
    std::vector<models::EntryRange> visible;
    for (Index row = first; row < first + count; ++row) visible.push_back({.first = 0, .last = row + 1});
    models::attend(prompt.keys(head), queries.middleRows(first, count), visible, rule, false, tile);
    for (Index row = first; row < first + count; ++row) {
      const Eigen::VectorXf column = tile.probability.col(row - first).head(row + 1);
      add(query_head, std::span(rows).first(static_cast<std::size_t>(row + 1)),
          {column.data(), static_cast<std::size_t>(row + 1)}, row);
    }
  }
}

void AttentionRecord::observe(const StepView& step) {
  seen_ = step.seen();
  for (int head = 0; head < step.heads(); ++head) {
    const QueryHeads group = step.query_heads(head);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      sums_[static_cast<std::size_t>(query_head)].resize(static_cast<std::size_t>(seen_), 0.0);
      add(query_head, step.entries(head), step.attention(query_head), step.row());
    }
  }
}

void AttentionRecord::add(int query_head, std::span<const std::int32_t> entries, std::span<const float> attention,
                          Index row) {
  const auto place = static_cast<std::size_t>(query_head);
  const bool as_given = options_.signal == AttentionSignal::probability;
  std::vector<float> values = as_given && !windowed() ? std::vector<float>() : signals(attention, row);
  if (!windowed()) {
    const std::span<const float> added = as_given ? attention : values;
    std::vector<double>& sums = sums_[place];
    for (std::size_t i = 0; i < entries.size(); ++i) {
      sums[static_cast<std::size_t>(entries[i])] += static_cast<double>(added[i]);
    }
    return;
  }
  recent_[place].push_back({{entries.begin(), entries.end()}, std::move(values)});
  if (std::ssize(recent_[place]) > options_.history) recent_[place].pop_front();
}

std::vector<float> AttentionRecord::signals(std::span<const float> attention, Index row) const {
  std::vector<float> values(attention.begin(), attention.end());
  if (values.empty()) return values;
  const auto each = [&values](auto signal) { std::transform(values.begin(), values.end(), values.begin(), signal); };
  switch (options_.signal) {
    case AttentionSignal::probability:
      break;
    case AttentionSignal::squared:
      each([](float p) { return p * p; });
      break;
    case AttentionSignal::above_uniform: {
      const double uniform = 1.0 / static_cast<double>(values.size());
      each([uniform](float p) { return static_cast<double>(p) >= uniform ? 1.0F : 0.0F; });
      break;
    }
    case AttentionSignal::below_uniform: {
      const double uniform = 1.0 / static_cast<double>(row + 1);
      each([uniform](float p) { return static_cast<double>(p) < uniform ? -1.0F : 0.0F; });
      break;
    }
    case AttentionSignal::above_percentile: {
      std::vector<float> sorted = values;
      const auto at = std::min(static_cast<std::ptrdiff_t>(options_.percentile * static_cast<double>(sorted.size())),
                               std::ssize(sorted) - 1);
      std::nth_element(sorted.begin(), sorted.begin() + at, sorted.end());
      const float threshold = sorted[static_cast<std::size_t>(at)];
      each([threshold](float p) { return p > threshold ? 1.0F : 0.0F; });
      break;
    }
  }
  return values;
}

std::vector<double> AttentionRecord::sums(int query_head, std::span<const std::int32_t> entries) const {
  const auto place = static_cast<std::size_t>(query_head);
  std::vector<double> windowed_sums;
  if (windowed()) {
    windowed_sums = sums_[place];
    for (const Row& row : recent_[place]) {
      for (std::size_t i = 0; i < row.entries.size(); ++i) {
        windowed_sums[static_cast<std::size_t>(row.entries[i])] += static_cast<double>(row.signals[i]);
      }
    }
  }
  const std::vector<double>& all = windowed() ? windowed_sums : sums_[place];
  std::vector<double> sums(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) sums[i] = all[static_cast<std::size_t>(entries[i])];
  return sums;
}

Index AttentionRecord::queries(Index row, Index seen) const {
  Index first = 0;
  if (options_.span == AttentionSpan::window) first = seen - options_.history;
  if (options_.span == AttentionSpan::since_window) first = prompt_length_ - options_.history;
  return seen - std::max(row, first);
}

Needs AttentionRecord::needs() const {
  Needs needs{.decode_attention = true};
  if (options_.span == AttentionSpan::all) {
    needs.all_queries = true;
  } else {
    needs.window_queries = options_.history;
  }
  return needs;
}

}  // namespace evictsim::policies
