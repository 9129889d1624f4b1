#pragma once
/// \file
/// `evictsim plan --workload replay:run.h5`: the very sequences of a run file, served step by step.

#include <memory>
#include <string>
#include <vector>

#include "analysis/recorded_sequences.h"
#include "sim/serving/deployed_model.h"
#include "sim/serving/workload_source.h"

namespace evictsim {

/// The file's path if `workload` names one; else empty.
std::string replayed_path(const std::string& workload);

class ReplayedRun {
 public:
  /// Throws what analysis::read_recorded_steps() throws.
  ReplayedRun(std::string path, analysis::PageRule rule);
  /// What a policy's sequences are for that deployment; without a profile everything is kept.
  [[nodiscard]] std::shared_ptr<const sim::ServingWorkload> workload(const sim::ServingSetup& setup) const;

 private:
  std::string path_;
  analysis::PageRule rule_;
  std::vector<analysis::RecordedSteps> steps_;
};

}  // namespace evictsim
