#pragma once
/// \file
/// Where the results of `evictsim replay` go: run.csv, run.h5, the dump, the warnings and the progress line.

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "analysis/csv.h"
#include "analysis/damage/predictor.h"
#include "analysis/event_log.h"
#include "analysis/forwarding_observer.h"
#include "analysis/run_accumulator.h"
#include "analysis/run_file.h"
#include "analysis/run_file_dump.h"
#include "traces/reader.h"

namespace evictsim {

/// Ends the message `why` about a policy that needs what a trace lacks; empty where leaving layers out cannot help.
inline std::string_view layers_hint(std::string_view why) {
  if (why.find("/layer_") == std::string_view::npos) return {};
  return " (--layers can restrict the replay to layers that have it)";
}

/// What the user asked for; empty paths: not asked for.
struct OutputOptions {
  std::filesystem::path run_file, csv, dump, events;
  std::filesystem::path calibration;  ///< of predicted damage; an input
  std::string dump_command_line;      ///< what decides the dump's content, and nothing else, so that its bytes repeat
  analysis::DetailAxes per;
  bool quiet = false;
};

/// Throws Error(invalid_argument) when an output would overwrite an input or another output, is "-", or an HDF5
/// one is something else than a regular file.
void require_separate_outputs(const OutputOptions& options, const std::vector<traces::Reader>& readers);

/// All outputs of one run. Files are created at once, so that what cannot be written is reported before the work.
class ReplayOutputs {
 public:
  /// References must outlive this.
  ReplayOutputs(const OutputOptions& options, const sim::ReplayPlan& plan, const std::vector<traces::Reader>& readers,
                analysis::Provenance provenance, analysis::DamagePredictor predictor);

  [[nodiscard]] sim::ReplayObserver& observer();
  /// Writes what is held in memory and gives the files their names. `complete`: the replay came to its end.
  void seal(bool complete);

  [[nodiscard]] const std::vector<analysis::RunRow>& rows() const { return rows_; }
  [[nodiscard]] bool any_failed() const { return any_failed_; }
  /// "Wrote run.h5, run.csv."; empty without files.
  [[nodiscard]] std::string written() const;

 private:
  class Progress;
  void take(analysis::SequenceResult&& result);

  OutputOptions options_;
  const sim::ReplayPlan& plan_;
  analysis::DamagePredictor predictor_;
  std::vector<analysis::RunRow> rows_;
  std::set<std::pair<std::size_t, std::size_t>> warned_;    ///< (policy, trace): its sequences mostly lack the same
  std::map<std::string, std::size_t> without_decode_rows_;  ///< sequences by trace
  bool any_failed_ = false;
  std::optional<analysis::CsvFile> csv_;
  std::unique_ptr<analysis::RunFile> run_file_;
  std::unique_ptr<analysis::RunAccumulator> accumulator_;
  std::unique_ptr<analysis::DumpObserver> dump_;
  std::unique_ptr<analysis::EventLog> events_;
  std::shared_ptr<Progress> progress_;
};

}  // namespace evictsim
