#pragma once
/// \file
/// Runs the cases of a plan on all cores, and gives out their rows in order as they finish.

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "analysis/plan_case.h"

namespace evictsim {

struct PlanSweep {
  int threads = 0;                          ///< 0: all cores; rows do not depend on it
  const std::atomic<bool>* stop = nullptr;  ///< set from outside: no further case begins
  /// Before the run that a row shows, and after it; the sweep serialises neither. May be empty.
  std::function<void(std::size_t index, sim::ServingOptions&)> before_run;
  /// In order of `index` and never at the same time, as soon as the row and all before it are finished. When stopped,
  /// finished rows behind a gap follow at the end.
  std::function<void(std::size_t index, const analysis::PlanAnswer&)> row;
  /// What a search tries next; not in any order, never at the same time as anything else here.
  std::function<void(const std::string& tried)> searching;
  /// How many cases are finished; not in any order, and never at the same time as `row`.
  std::function<void(std::size_t finished)> progress;
};

/// A case that fails becomes a row whose status says why; alone it is the Error. False when stopped.
bool run_sweep(const std::vector<analysis::PlanCase>& cases, const PlanSweep& sweep);

}  // namespace evictsim
