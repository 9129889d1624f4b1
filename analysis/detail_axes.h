#pragma once
/// \file
/// The axes along which a replay keeps detail (docs/run-file.md).

#include <string_view>

namespace evictsim::analysis {

/// What is kept apart; metrics are averaged over the others. None: no detail.
struct DetailAxes {
  bool layer = false;
  bool head = false;
  bool step = false;
  bool entry = false;
  bool steps = false;  ///< arrays by step alone beside those of the other axes, not multiplied with them
  /// Whether metrics of decode rows have an axis of their own; entries have arrays of their own.
  [[nodiscard]] bool any() const { return layer || head || step; }
  /// Whether anything is kept by step.
  [[nodiscard]] bool any_step() const { return step || steps; }
  /// "layer,head,step,entry" and parts of it, in any order. "steps" is "step" unless layers or heads are kept
  /// apart. Throws Error(invalid_argument, unknown_name).
  static DetailAxes parse(std::string_view text);
};

}  // namespace evictsim::analysis
