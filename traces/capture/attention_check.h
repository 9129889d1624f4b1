#pragma once
/// \file
/// The proof that a capture is right: attention recomputed from the written trace, times W_O, against what the engine
/// itself computed. A wrong node, scale, mask, head order or position shows here.

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "traces/capture/step_rows.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

/// Relative errors |recomputed - engine| / |engine| (L2 over the hidden size) over the compared rows.
struct AttentionCheckResult {
  std::size_t compared = 0;
  double largest = 0;
  double mean = 0;
  int layer = -1;  ///< where the largest was
  std::int32_t row = -1;
};

/// Keeps the engine's attention output of a few token rows, then compares.
class AttentionCheck {
 public:
  /// `layers` captured, ascending; `rows` token rows to compare where a layer has queries for them.
  AttentionCheck(std::vector<int> layers, std::vector<std::int32_t> rows, int hidden_size);

  void add(const StepRows& step);
  /// Reads a sequence of the trace and its weights `w_o`; float64 throughout.
  /// Throws Error(missing_data) when a layer has no `w_o`.
  [[nodiscard]] AttentionCheckResult compare(const Reader& reader, std::size_t sequence = 0) const;

 private:
  std::vector<int> layers_;
  std::vector<std::int32_t> rows_;
  std::size_t hidden_;
  std::map<std::pair<int, std::int32_t>, std::vector<float>> engine_;  // by layer and row: [D]
};

}  // namespace evictsim::traces::capture
