#include "analysis/run_file_events.h"

#include "analysis/run_file_input.h"
#include "analysis/run_file_output.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

/// By row of the file.
std::vector<std::vector<CacheEvent>> read_events(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  const hdf5::Node root = open_result(path, "evictsim-run", "`evictsim replay -o run.h5`");
  if (!root.has_group("events")) {
    throw Error(ErrorCode::missing_data,
                "holds no /events: replay again with both `-o run.h5` and `--events events.csv`",
                {.file = path.string()});
  }
  const hdf5::Node group = root.group("events");
  const auto refuse = [&](const char* what) { throw group.error(ErrorCode::not_a_trace, what); };
  const std::vector<std::int64_t> of = read_counts(group, "of");
  std::vector<CacheEvent> events(of.size());
  for (const CacheEventColumn& column : cache_event_columns) {
    const std::vector<std::int64_t> values = read_counts(group, column.name);
    if (values.size() != of.size()) refuse("has columns of different lengths: the file is damaged");
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] < 0) refuse("holds a number below 0: the file is damaged");
      events[i].*column.member = values[i];
    }
  }
  std::vector<std::vector<CacheEvent>> by_row(read_rows(root).size());
  for (std::size_t i = 0; i < of.size(); ++i) {
    if (of[i] < 0 || static_cast<std::size_t>(of[i]) >= by_row.size()) refuse("names a row that is not there");
    by_row[static_cast<std::size_t>(of[i])].push_back(events[i]);
  }
  return by_row;
}

}  // namespace

std::vector<RecordedSteps> read_recorded_steps(const std::filesystem::path& path) {
  std::vector<std::vector<CacheEvent>> events = read_events(path);
  std::vector<RecordedSteps> all;
  for (RecordedCache& cache : read_recorded_caches(path)) {
    const std::size_t row = cache.number;
    if (!events[row].empty()) all.push_back({std::move(cache), std::move(events[row])});
  }
  return all;
}

void EventColumns::add(std::size_t row, std::span<const CacheEvent> of_row) {
  of.insert(of.end(), of_row.size(), static_cast<std::int64_t>(row));
  events.insert(events.end(), of_row.begin(), of_row.end());
}

void write_events(const hdf5::Node& root, const EventColumns& columns) {
  const hdf5::Node group = root.create_group("events");
  write_counts(group, "of", columns.of);
  for (const CacheEventColumn& each : cache_event_columns) {
    write_counts(group, each.name, column(columns.events, [&](const CacheEvent& event) { return event.*each.member; }));
  }
}

}  // namespace evictsim::analysis
