#pragma once
/// \file
/// The report of run and plan files: their data for the page, and the page itself. Sections: docs/report.md.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "analysis/plan_file.h"
#include "analysis/run_file_dump_reader.h"
#include "analysis/run_file_reader.h"
#include "traces/reader.h"

namespace evictsim::analysis {

/// What a report is about. Files are told apart by what they hold.
struct ReportInputs {
  std::vector<RunReader> runs;
  std::vector<PlanContents> plans;
  std::vector<std::shared_ptr<const DumpReader>> dumps;
  std::vector<traces::Reader> traces;

  /// Opens every file. Dumps go to the run that was made from the same traces. Throws Error: what readers throw;
  /// not_a_trace for a file that is none of ours; invalid_argument for no run and no plan, and for a dump that fits no
  /// run.
  static ReportInputs open(std::span<const std::string> files);
};

/// The data as one line of ASCII JSON (docs/report.md, "Data"). Traces that are not among the inputs are looked for
/// where runs say they were. The same inputs give the same text.
std::string report_json(const ReportInputs& inputs, const std::string& command_line);

/// The self-contained page around that data; `title` is the page's name. Throws Error(unsupported) in a build without
/// the plotting library, with what to install.
std::string report_page(const std::string& json, const std::string& title);
/// What the report is about, for the page's name.
std::string report_title(const ReportInputs& inputs);

}  // namespace evictsim::analysis
