#pragma once
/// \file
/// What a serving simulation holds and does over time, in few enough points to draw. Definition: docs/plan.md,
/// "plan.h5".

#include <cstdint>
#include <vector>

#include "sim/serving/serving.h"

namespace evictsim::analysis {

/// The run is cut into up to `most_spans` spans of equally many samples; elements are means over spans.
struct PlanSeries {
  static constexpr std::size_t most_spans = 100;

  double kv_capacity_tokens = 0;         ///< of all replicas
  std::vector<double> seconds;           ///< where the span begins
  std::vector<double> kv_tokens;         ///< held by requests, over all replicas
  std::vector<double> running, waiting;  ///< requests in batches; in queues or in transfer

  [[nodiscard]] bool empty() const { return seconds.empty(); }
  /// `block_tokens`: tokens of a block of KV memory.
  static PlanSeries of(const sim::ServingResult& result, std::int64_t block_tokens);
};

}  // namespace evictsim::analysis
