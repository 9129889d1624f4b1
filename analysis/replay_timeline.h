#pragma once
/// \file
/// A replayed run as a timeline for Perfetto: what lies where and what moves while a sequence is decoded. Tracks:
/// docs/run-file.md.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::analysis {

/// One sequence under one policy at one budget.
struct ReplayTimeline {
  /// A detail array whose only axis is the step (docs/run-file.md).
  struct Series {
    std::string name;
    std::vector<double> values;  ///< [steps]; NaN: nothing was evaluated
  };
  std::string trace, sequence, policy, budget;
  std::int64_t prompt_length = 0;
  double kept_entries = 0;          ///< after the prompt's cut, mean over layers and cache heads
  std::vector<std::int32_t> steps;  ///< token row of every step
  std::vector<Series> series;       ///< those without a track are left out
};

/// Writes a process per element, in which a decode step takes a millisecond: replays have no clock. Throws
/// Error(invalid_argument) for series of another length than `steps`, Error(permission_denied, file_not_found,
/// io_failure).
void write_replay_timeline(const std::filesystem::path& path, const std::vector<ReplayTimeline>& timelines);

}  // namespace evictsim::analysis
