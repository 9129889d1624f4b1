#pragma once
/// \file
/// The scores of one layer's cache at a cut, and the choice of the best.

#include <cstdint>
#include <span>
#include <vector>

#include "policies/cache_view.h"

namespace evictsim::policies {

/// One score per resident entry and cache head, in the order of `LayerView::entries`; higher = keep. A protected entry
/// has no score (NaN in dumps) and ranks above every scored one.
class LayerScores {
 public:
  LayerScores() = default;
  /// Zero scores for every resident entry of `layer`, none protected.
  explicit LayerScores(const LayerView& layer);

  [[nodiscard]] int heads() const { return static_cast<int>(values_.size()); }
  [[nodiscard]] std::span<float> of(int head) { return values_[static_cast<std::size_t>(head)]; }
  [[nodiscard]] std::span<const float> of(int head) const { return values_[static_cast<std::size_t>(head)]; }
  void protect(int head, Index entry) { mark(protected_, head, entry, entry + 1); }
  /// Entries first .. last - 1; none when last <= first.
  void protect(int head, Index first, Index last) { mark(protected_, head, first, last); }
  /// Sets the entry's score to `score`, which all raised entries of a layer share and no other exceeds, and lets ties
  /// between raised entries go to the newest: a budget smaller than a window of raised entries keeps its end.
  void raise(int head, Index entry, float score);
  /// The entry goes at this cut, whatever room the budget has.
  void drop(int head, Index entry) { mark(dropped_, head, entry, entry + 1); }
  [[nodiscard]] bool is_dropped(int head, Index entry) const { return is_marked(dropped_, head, entry); }
  [[nodiscard]] Index dropped_count(int head) const { return dropped_[static_cast<std::size_t>(head)].count; }
  [[nodiscard]] bool is_protected(int head, Index entry) const { return is_marked(protected_, head, entry); }
  [[nodiscard]] Index protected_count(int head) const { return protected_[static_cast<std::size_t>(head)].count; }
  [[nodiscard]] bool is_raised(int head, Index entry) const { return is_marked(raised_, head, entry); }
  [[nodiscard]] bool has_raised(int head) const { return raised_[static_cast<std::size_t>(head)].count > 0; }

 private:
  struct Marks {
    std::vector<std::uint8_t> of_entry;  ///< empty until something is marked
    Index count = 0;                     ///< of marked entries
  };
  static bool is_marked(const std::vector<Marks>& all, int head, Index entry) {
    const std::vector<std::uint8_t>& marks = all[static_cast<std::size_t>(head)].of_entry;
    return !marks.empty() && marks[static_cast<std::size_t>(entry)] != 0;
  }

  void mark(std::vector<Marks>& all, int head, Index first, Index last) const;

  std::vector<std::vector<float>> values_;
  std::vector<Marks> protected_;
  std::vector<Marks> raised_;
  std::vector<Marks> dropped_;
};

/// Places (not rows) of all entries of a head, best first, in the order that select_best cuts: its first `count` are
/// what select_best(scores, head, count) keeps. Dropped entries come last. O(entries log entries).
std::vector<std::int32_t> rank_entries(const LayerScores& scores, int head);

/// Places (not rows) of the `count` best entries of a head, ascending. Protected entries come first, the newest of them
/// before older ones; equal scores go to the older entry, among raised entries to the newer. Dropped entries are taken
/// when nothing else is left. O(entries).
std::vector<std::int32_t> select_best(const LayerScores& scores, int head, Index count);

}  // namespace evictsim::policies
