#pragma once
/// \file
/// plan.h5: the rows of a plan, and where they came from. Layout: docs/plan.md, "plan.h5".

#include <filesystem>
#include <memory>

#include "analysis/plan_row.h"
#include "analysis/run_file.h"

namespace evictsim::analysis {

/// Collects rows; the file appears under its name, complete and synced, at `seal()`. Destroyed without it, the
/// temporary file is removed.
class PlanFile {
 public:
  /// Creates the temporary file beside `path`. Throws Error(permission_denied, file_not_found, io_failure).
  PlanFile(const std::filesystem::path& path, Provenance provenance);
  ~PlanFile();
  PlanFile(const PlanFile&) = delete;
  PlanFile& operator=(const PlanFile&) = delete;

  void add(const PlanRow& row);
  /// `complete`: the plan came to its end.
  void seal(bool complete);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::analysis
