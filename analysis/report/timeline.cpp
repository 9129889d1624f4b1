#include "analysis/report/timeline.h"

#include <array>
#include <utility>

#include "traces/error.h"

namespace evictsim::analysis {
namespace {

constexpr std::array metrics = {
    "stored_hbm_bytes",    "stored_host_bytes", "stored_disk_bytes",  "recalled_host_bytes",
    "recalled_disk_bytes", "written_hbm_bytes", "written_host_bytes", "written_disk_bytes",
    "scanned_bytes",       "resident_entries",  "resident_bytes",     "evictions_per_step",
    "retained_mass",       "output_error",      "dilution",           "premature_evictions"};

}  // namespace

std::vector<ReplayTimeline> replay_timelines(std::span<const RunReader> runs) {
  std::vector<ReplayTimeline> timelines;
  for (const RunReader& run : runs) {
    const std::vector<RunRow>& rows = run.contents().rows;
    for (std::size_t index = 0; index < rows.size(); ++index) {
      const RunRow& row = rows[index];
      ReplayTimeline timeline{row.trace,         row.sequence,
                              row.policy,        row.budget,
                              row.prompt_length, row[Metric::kept_entries],
                              run.steps(index),  {}};
      for (const char* metric : metrics) {
        auto array = run.detail(index, metric, "step");
        if (array) timeline.series.push_back({metric, std::move(array->values)});
      }
      if (!timeline.series.empty()) timelines.push_back(std::move(timeline));
    }
  }
  if (timelines.empty()) {
    throw Error(ErrorCode::missing_data, "no run file holds arrays by step: replay with --per steps",
                {.parameter = "--timeline"});
  }
  return timelines;
}

}  // namespace evictsim::analysis
