#pragma once
/// \file
/// plan.h5: the rows of a plan, what lies behind them, and where they came from. Layout: docs/plan.md, "plan.h5".

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "analysis/plan_row.h"
#include "analysis/plan_series.h"
#include "analysis/run_file.h"
#include "models/kv_budget.h"

namespace evictsim::analysis {

/// What a row was made of.
struct PlanBackground {
  PlanSeries series;                            ///< empty for a row without a run
  std::vector<models::KvBudgetLine> kv_budget;  ///< of one GPU; empty where the blocks were given
};

/// Collects rows; the file appears under its name, complete and synced, at `seal()`. Destroyed without it, the
/// temporary file is removed.
class PlanFile {
 public:
  /// Creates the temporary file beside `path`. Throws Error(permission_denied, file_not_found, io_failure).
  PlanFile(const std::filesystem::path& path, Provenance provenance);
  ~PlanFile();
  PlanFile(const PlanFile&) = delete;
  PlanFile& operator=(const PlanFile&) = delete;

  void add(const PlanRow& row, PlanBackground background);
  /// `complete`: the plan came to its end.
  void seal(bool complete);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A plan file read back.
struct PlanContents {
  std::string path;  ///< of the file, as given
  RecordedProvenance provenance;
  /// Columns that an older evictsim did not write are empty.
  std::vector<PlanRow> rows;
  std::vector<PlanBackground> backgrounds;  ///< by row; empty parts in files of an evictsim that wrote none
};

/// Throws Error: file_not_found, permission_denied; not_a_trace for what is no plan file, or a truncated or damaged
/// one; unsupported_version for one of a newer format.
PlanContents read_plan(const std::filesystem::path& path);

}  // namespace evictsim::analysis
