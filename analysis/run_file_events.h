#pragma once
/// \file
/// What run.h5 holds about the steps of sequences, `/events`: written when a replay logs events, and read back to serve
/// these sequences. Layout: docs/run-file.md.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "analysis/cache_event.h"
#include "analysis/run_file_profile.h"

namespace evictsim::analysis {

/// One row of a run file and its steps, the prompt's cut first.
struct RecordedSteps {
  RecordedCache cache;
  std::vector<CacheEvent> events;
};

/// The rows that did not fail, in the file's order. Throws Error: what read_recorded_caches() throws, and missing_data
/// for a run file without `/events`.
std::vector<RecordedSteps> read_recorded_steps(const std::filesystem::path& path);

/// Columns of `/events` on their way into a file.
struct EventColumns {
  std::vector<std::int64_t> of;  ///< row of the file
  std::vector<CacheEvent> events;

  void add(std::size_t row, std::span<const CacheEvent> of_row);
};

}  // namespace evictsim::analysis
