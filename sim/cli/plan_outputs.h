#pragma once
/// \file
/// Where the rows of `evictsim plan` go: plan.csv, plan.h5, rows of requests, the timeline, the table and the progress
/// line.

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/csv.h"
#include "analysis/plan_file.h"
#include "analysis/plan_row.h"
#include "analysis/serving_timeline.h"
#include "sim/cli/plan_cases.h"

namespace evictsim {

class PlanOutputs {
 public:
  /// Creates the files, so that what cannot be written is reported before the work. References must outlive this.
  /// Throws Error(invalid_argument) for an output that would overwrite an input or another output, and for a timeline
  /// of several rows.
  PlanOutputs(const PlanArguments& arguments, const PlanCases& cases);

  void before_run(sim::ServingOptions& options);
  void row(std::size_t index, const analysis::PlanAnswer& answer);
  void progress(std::size_t finished);
  /// What a search tries next, on a terminal.
  void searching(const std::string& tried);
  /// Gives the files their names, and prints what is left to say. `complete`: no row is missing.
  void finish(bool complete);

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] bool any_simulated() const { return simulated_seconds_ > 0; }

 private:
  void print_progress(const std::string& tried) const;
  void print_fewest_gpus() const;
  void write_rows();

  const PlanArguments& arguments_;
  const PlanCases& cases_;
  bool terminal_;
  std::chrono::steady_clock::time_point begin_;
  std::size_t rows_ = 0, finished_ = 0;
  std::vector<analysis::PlanRow> held_;                ///< rows that wait for the other policies, for the frontier
  std::vector<analysis::PlanBackground> backgrounds_;  ///< of these
  std::size_t held_group_ = 0;
  double simulated_seconds_ = 0;
  std::optional<analysis::PlanTable> table_;
  std::optional<analysis::PlanRow> fewest_;  ///< of the rows that need the fewest GPUs, the first one
  std::optional<analysis::CsvFile> csv_, requests_;
  std::unique_ptr<analysis::PlanFile> plan_file_;
  std::unique_ptr<analysis::TimelineObserver> timeline_;
};

}  // namespace evictsim
