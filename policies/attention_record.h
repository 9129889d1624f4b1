#pragma once
/// \file
/// What every entry received from the queries so far: the running sums behind H2O, Scissorhands and their kin.

#include <deque>
#include <span>
#include <vector>

#include "policies/cache_view.h"
#include "policies/needs.h"

namespace evictsim::policies {

/// What one query adds to an entry that it sees, among m such entries, p being its attention.
enum class AttentionSignal {
  probability,      ///< p
  squared,          ///< p^2
  above_uniform,    ///< 1 where p >= 1 / m, else 0
  below_uniform,    ///< -1 where p < 1 / t, t the tokens seen by then, else 0
  above_percentile  ///< 1 where p is above the row's `percentile`, that is the value at place int(percentile * m) of
                    ///< its m sorted ones, else 0
};

/// Which queries are added up.
enum class AttentionSpan {
  all,          ///< every one
  window,       ///< the last `history`
  since_window  ///< the last `history` of the prompt and all decode rows
};

struct AttentionRecordOptions {
  AttentionSignal signal = AttentionSignal::probability;
  AttentionSpan span = AttentionSpan::all;
  Index history = 0;
  double percentile = 0.9;
};

/// Sums by query head and token row. Prompt rows attend the full prompt, decode rows what is resident then. Memory:
/// [query heads, tokens] doubles; with a window also `history` rows of what was resident, as floats.
class AttentionRecord {
 public:
  explicit AttentionRecord(const AttentionRecordOptions& options) : options_(options) {}

  /// Adds up the prompt, whole and resident; what was recorded before is forgotten.
  void begin(const CacheView& prompt);
  [[nodiscard]] bool begun() const { return !sums_.empty(); }
  void observe(const StepView& step);

  /// What each of `entries` (token rows, all seen) received; of an entry long gone, what it had received by then.
  [[nodiscard]] std::vector<double> sums(int query_head, std::span<const std::int32_t> entries) const;
  /// Queries added up for the entry of token `row` when `seen` tokens were seen.
  [[nodiscard]] Index queries(Index row, Index seen) const;
  /// Needs::all_queries, or window_queries, and decode_attention.
  [[nodiscard]] Needs needs() const;

 private:
  /// One query over the entries it saw.
  struct Row {
    std::vector<std::int32_t> entries;
    std::vector<float> signals;
  };

  /// `attention` is that of token `row` over `entries`.
  void add(int query_head, std::span<const std::int32_t> entries, std::span<const float> attention, Index row);
  void add_all_prompt_rows(const CacheView& prompt, int head, int query_head);
  [[nodiscard]] std::vector<float> signals(std::span<const float> attention, Index row) const;
  [[nodiscard]] bool windowed() const { return options_.span == AttentionSpan::window; }

  AttentionRecordOptions options_;
  Index prompt_length_ = 0;
  Index seen_ = 0;
  std::vector<std::vector<double>> sums_;  ///< [query head][token row]; stay 0 where windowed
  std::vector<std::deque<Row>> recent_;    ///< [query head], oldest first; windowed only
};

}  // namespace evictsim::policies
