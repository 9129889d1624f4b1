#pragma once
/// \file
/// Bytes at rest and in motion of one point, summed over decode rows and layers.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "analysis/run_row.h"
#include "policies/placement.h"

namespace evictsim::analysis {

/// What one layer holds and moves.
class TierSums {
 public:
  /// After the prompt's cut; `stored` is empty for policies without a placement, `kept_bytes` then stay in HBM.
  void begin(const std::optional<policies::TierBytes>& stored, double kept_bytes);
  /// One block of decode rows, [B]; empty without a placement.
  void add(std::span<const policies::StepTraffic> steps);
  /// Fills the columns of tiers and recall from the sums of all layers of a point; what moves only where rows were
  /// evaluated.
  static void fill(const std::vector<const TierSums*>& layers, bool evaluated, RunRow& row);

 private:
  policies::TierBytes stored_;
  bool placed_ = false;
  policies::StepTraffic traffic_;
  std::int64_t rows_ = 0;
};

}  // namespace evictsim::analysis
