#pragma once
/// \file
/// Which class of tokens an entry is of, and how attention is split over the classes (docs/metrics.md).

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "sim/replay/replay.h"
#include "traces/header.h"

namespace evictsim::sim {

/// Attention by class, indexed by TokenClass.
using ClassMasses = std::array<double, token_class_count>;

/// The classes of one sequence. An entry is of the first class that fits: sink, useful (of a query head and row),
/// distractor, decoded.
class TokenClasses {
 public:
  /// No sinks, and no spans: what is not useful is a distractor in the prompt and decoded behind it.
  explicit TokenClasses(std::int32_t prompt_length = 0) : prompt_length_(prompt_length) {}
  /// Sinks are the first `sinks` token rows; distractors those of `spans/distractor` where the sequence has them, else
  /// whatever else the prompt holds.
  TokenClasses(const traces::SequenceInfo& sequence, std::int32_t sinks);

  [[nodiscard]] std::int32_t sinks() const { return sinks_; }
  /// Rows of the distractor spans that are no sinks, ascending.
  [[nodiscard]] std::span<const std::int32_t> distractors() const { return distractors_; }
  /// Whether `row` is of the class decoded where it is not useful.
  [[nodiscard]] bool may_be_decoded(std::int32_t row) const {
    return row >= prompt_length_ && row >= sinks_ && !is_listed_distractor(row);
  }
  /// Adds `mass` on an entry that `is_useful` or not. Prompt entries of no class (outside the spans of distractors) are
  /// left out.
  void add(std::int32_t row, bool is_useful, double mass, ClassMasses& masses) const {
    if (row < sinks_) {
      masses[of(TokenClass::sink)] += mass;
    } else if (is_useful) {
      masses[of(TokenClass::useful)] += mass;
    } else if (is_listed_distractor(row) || (row < prompt_length_ && !has_spans_)) {
      masses[of(TokenClass::distractor)] += mass;
    } else if (row >= prompt_length_) {
      masses[of(TokenClass::decoded)] += mass;
    }
  }
  /// Where distractors are whatever the other classes leave: their mass, of `total`.
  void fill_rest(double total, ClassMasses& masses) const;

  static constexpr std::size_t of(TokenClass kind) { return static_cast<std::size_t>(kind); }

 private:
  [[nodiscard]] bool is_listed_distractor(std::int32_t row) const {
    return has_spans_ && std::binary_search(distractors_.begin(), distractors_.end(), row);
  }

  std::int32_t prompt_length_;
  std::int32_t sinks_ = 0;
  bool has_spans_ = false;
  std::vector<std::int32_t> distractors_;
};

}  // namespace evictsim::sim
