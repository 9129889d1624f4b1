#include "analysis/replay_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "analysis/csv.h"
#include "analysis/trace_events.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

constexpr std::int64_t step_time = 1'000'000;  // nanoseconds
constexpr int cuts_track = 0;
constexpr int rows_track = 1;

/// A curve of a counter.
struct Curve {
  const char* series = nullptr;
  const char* counter = nullptr;
  const char* label = nullptr;
};
// Curves of one counter stand together.
constexpr std::array curves = {Curve{"resident_bytes", "attended bytes", "bytes"},
                               Curve{"resident_entries", "attended entries per cache head", "entries"},
                               Curve{"stored_hbm_bytes", "bytes at rest", "hbm"},
                               Curve{"stored_host_bytes", "bytes at rest", "host"},
                               Curve{"stored_disk_bytes", "bytes at rest", "disk"},
                               Curve{"recalled_host_bytes", "recalled bytes", "host"},
                               Curve{"recalled_disk_bytes", "recalled bytes", "disk"},
                               Curve{"written_hbm_bytes", "written bytes", "hbm"},
                               Curve{"written_host_bytes", "written bytes", "host"},
                               Curve{"written_disk_bytes", "written bytes", "disk"},
                               Curve{"scanned_bytes", "scanned bytes", "bytes"},
                               Curve{"retained_mass", "retained mass", "share"},
                               Curve{"output_error", "output error", "relative"}};

const std::vector<double>* find(const ReplayTimeline& timeline, std::string_view name) {
  const auto found = std::find_if(timeline.series.begin(), timeline.series.end(),
                                  [name](const ReplayTimeline::Series& series) { return series.name == name; });
  return found == timeline.series.end() ? nullptr : &found->values;
}

void write_counters(TraceEvents& writer, int process, const ReplayTimeline& timeline) {
  for (std::size_t first = 0; first < curves.size();) {
    std::size_t last = first;
    while (last < curves.size() && std::string_view(curves[last].counter) == curves[first].counter) ++last;
    for (std::size_t step = 0; step < timeline.steps.size(); ++step) {
      std::string values;
      for (std::size_t curve = first; curve < last; ++curve) {
        const std::vector<double>* series = find(timeline, curves[curve].series);
        if (series == nullptr || !std::isfinite((*series)[step])) continue;
        values += fmt::format(R"({}"{}":{})", values.empty() ? "" : ",", curves[curve].label, decimal((*series)[step]));
      }
      const std::int64_t time = (static_cast<std::int64_t>(step) + 1) * step_time;
      if (!values.empty()) writer.counter(curves[first].counter, process, time, values);
    }
    first = last;
  }
}

void write_process(TraceEvents& writer, int process, const ReplayTimeline& timeline) {
  writer.name_process(process, fmt::format("{} at {}: sequence {} of {}", timeline.policy, timeline.budget,
                                           timeline.sequence, timeline.trace));
  writer.name_track(process, cuts_track, "cuts");
  writer.name_track(process, rows_track, "decode rows");
  writer.instant("prompt cut", process, cuts_track, 0,
                 fmt::format(R"("prompt_length":{},"kept_entries":{})", timeline.prompt_length,
                             std::isfinite(timeline.kept_entries) ? decimal(timeline.kept_entries) : "null"));
  const std::vector<double>* evictions = find(timeline, "evictions_per_step");
  for (std::size_t step = 0; step < timeline.steps.size(); ++step) {
    const std::int64_t time = (static_cast<std::int64_t>(step) + 1) * step_time;
    writer.span("row", process, rows_track, time, time + step_time, fmt::format(R"("row":{})", timeline.steps[step]));
    if (evictions == nullptr || !((*evictions)[step] > 0)) continue;
    writer.instant("cut", process, cuts_track, time + step_time,
                   fmt::format(R"("row":{},"evicted_entries_per_cache_head":{})", timeline.steps[step],
                               decimal((*evictions)[step])));
  }
  write_counters(writer, process, timeline);
}

}  // namespace

void write_replay_timeline(const std::filesystem::path& path, const std::vector<ReplayTimeline>& timelines) {
  for (const ReplayTimeline& timeline : timelines) {
    for (const ReplayTimeline::Series& series : timeline.series) {
      if (series.values.size() == timeline.steps.size()) continue;
      throw Error(ErrorCode::invalid_argument, "must have a value for every step",
                  {.parameter = series.name, .value = std::to_string(series.values.size())});
    }
  }
  TraceEvents writer(path);
  for (std::size_t index = 0; index < timelines.size(); ++index) {
    write_process(writer, static_cast<int>(index) + 1, timelines[index]);
  }
  writer.finish();
}

}  // namespace evictsim::analysis
