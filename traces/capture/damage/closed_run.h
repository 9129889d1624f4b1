#pragma once
/// \file
/// One text in a running model: its trace, what a replay of the trace says, and the same policies in the model itself.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "analysis/run_row.h"
#include "sim/replay/closed_loop.h"
#include "sim/replay/replay.h"
#include "traces/capture/capture_plan.h"
#include "traces/capture/damage/continuation.h"
#include "traces/capture/damage/next_token.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

/// What a replay of one sequence gave.
struct OpenLoop {
  std::vector<analysis::RunRow> rows;
  std::vector<std::size_t> points;                                   ///< of the plan, by row
  std::vector<sim::PromptCut> cuts;                                  ///< of every point and layer
  std::vector<std::pair<std::size_t, std::string>> skipped, failed;  ///< (policy, why)
};

/// Replays a trace of one sequence. Throws Error(interrupted).
OpenLoop replay_trace(const Reader& reader, const sim::ReplayPlan& plan, const sim::ReplayOptions& options,
                      const std::atomic<bool>& stop);

/// Token ids of a trace's only sequence.
std::vector<std::int32_t> token_ids(const Reader& reader);

/// The closed loop of one text under the points of a plan. References must outlive this.
class ClosedRun {
 public:
  /// Takes the cuts out of `open`. `policies`: those that will run. Reads the prompt through the model. Throws
  /// Error(unsupported) where the engine does not repeat itself.
  ClosedRun(const CapturedModel& model, const Reader& reader, const sim::ReplayPlan& plan,
            const sim::ReplayOptions& options, OpenLoop& open, const std::set<std::size_t>& policies,
            const RunControl& control);

  [[nodiscard]] const sim::ClosedLoop& loop() const { return loop_; }
  /// Every layer cut as the point says. Throws Error(policy_failure) where its budgets by layer do not settle.
  [[nodiscard]] NextTokenChange run(std::size_t point);
  /// One layer cut alone.
  [[nodiscard]] NextTokenChange run_layer(std::size_t point, std::size_t layer);
  /// Nothing cut, attention computed by the replay's code in place of the engine's: what rounding alone does.
  [[nodiscard]] NextTokenChange run_uncut();
  [[nodiscard]] NextTokenChange run_layer_uncut(std::size_t layer);

 private:
  [[nodiscard]] sim::DecodeRows rows_of(std::size_t layer, const LayerRows& rows) const;
  bool overwrite(std::size_t layer, const LayerRows& rows, std::span<float> output);

  sim::ClosedLoop loop_;
  Continuation continuation_;
  std::optional<NextTokenReference> reference_;
};

}  // namespace evictsim::traces::capture
