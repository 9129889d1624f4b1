#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "analysis/report/report.h"
#include "analysis/run_file_dump_reader.h"
#include "analysis/run_file_input.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

void add_traces(const std::filesystem::path& path, std::vector<traces::Reader>& readers) {
  for (traces::Reader& reader : traces::open_traces({path})) readers.push_back(std::move(reader));
}

/// CSV tables hold the rows of result files, not the files themselves.
void require_no_table(const std::filesystem::path& file) {
  std::error_code ignored;
  if (file.extension() != ".csv" || !std::filesystem::is_regular_file(file, ignored)) return;
  const std::filesystem::path beside = std::filesystem::path(file).replace_extension(".h5");
  throw Error(
      ErrorCode::not_a_trace,
      "is a table: a report reads the file with the same rows and what lies behind them, " +
          (std::filesystem::exists(beside, ignored) ? beside.string() : "as evictsim replay -o run.h5 writes it"),
      {.file = file.string()});
}

void give_dump(const std::shared_ptr<const DumpReader>& dump, std::vector<RunReader>& runs) {
  bool taken = false;
  for (RunReader& run : runs) {
    if (!run.fits(*dump)) continue;
    run.use(dump);
    taken = true;
  }
  if (taken) return;
  throw Error(ErrorCode::invalid_argument, "is a dump of traces that no run file among the inputs was made from",
              {.file = dump->path()});
}

}  // namespace

ReportInputs ReportInputs::open(std::span<const std::string> files) {
  ReportInputs inputs;
  std::vector<std::string> taken;
  for (const std::string& file : files) {
    std::error_code ignored;
    for (const std::string& other : taken) {
      if (!std::filesystem::equivalent(file, other, ignored)) continue;
      throw Error(ErrorCode::invalid_argument, "is given twice: name every file once", {.file = file});
    }
    taken.push_back(file);
    require_no_table(file);
    if (std::filesystem::is_directory(file, ignored)) {
      add_traces(file, inputs.traces);
      continue;
    }
    const std::string format = format_of(file);
    if (format == "evictsim-run") {
      inputs.runs.emplace_back(file);
    } else if (format == "evictsim-plan") {
      inputs.plans.push_back(read_plan(file));
    } else if (format == "evictsim-dump") {
      inputs.dumps.push_back(std::make_shared<const DumpReader>(file));
    } else if (format == traces::format_name) {
      add_traces(file, inputs.traces);
    } else {
      throw Error(ErrorCode::not_a_trace,
                  "is none of ours: expected what evictsim replay -o or --dump or evictsim plan -o wrote, or a trace",
                  {.file = file, .dataset = "/@format", .value = format});
    }
  }
  if (inputs.runs.empty() && inputs.plans.empty()) {
    if (!inputs.dumps.empty()) {
      throw Error(ErrorCode::invalid_argument,
                  "is a dump of what cuts kept: a report needs a run file or a plan file beside it, the one that "
                  "evictsim replay -o run.h5 --dump wrote with it",
                  {.file = inputs.dumps.front()->path()});
    }
    const std::string trace = inputs.traces.empty() ? "TRACE" : inputs.traces.front().path().string();
    throw Error(ErrorCode::invalid_argument,
                fmt::format("is a trace: a report needs a run file or a plan file, and evictsim replay {} -o run.h5 "
                            "makes a run of it",
                            trace),
                {.file = trace});
  }
  for (const auto& dump : inputs.dumps) give_dump(dump, inputs.runs);
  return inputs;
}

}  // namespace evictsim::analysis
