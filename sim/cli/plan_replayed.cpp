#include "sim/cli/plan_replayed.h"

#include <set>
#include <utility>

#include "traces/error.h"

namespace evictsim {
namespace {

constexpr const char* prefix = "replay:";

}  // namespace

std::string replayed_path(const std::string& workload) {
  return workload.starts_with(prefix) ? workload.substr(std::string(prefix).size()) : std::string();
}

ReplayedRun::ReplayedRun(std::string path, analysis::PageRule rule)
    : path_(std::move(path)), rule_(rule), steps_(analysis::read_recorded_steps(path_)) {
  if (!steps_.empty()) return;
  throw Error(ErrorCode::missing_data, "holds no row that did not fail", {.file = path_});
}

std::shared_ptr<const sim::ServingWorkload> ReplayedRun::workload(const sim::ServingSetup& setup) const {
  const double bytes_per_token = models::kv_bytes_per_token(*setup.llm, setup.deployment) * setup.deployment.gpus() /
                                 setup.deployment.attention_data_parallel;
  auto recorded = std::make_shared<sim::RecordedWorkload>();
  recorded->name = prefix + path_;
  std::set<std::pair<std::string, std::string>> taken;  // traces and sequences: the full cache serves each once
  for (const analysis::RecordedSteps& steps : steps_) {
    const analysis::RunRow& row = steps.cache.row;
    if (setup.profile && (row.policy != setup.profile->policy || row.budget != setup.profile->budget)) continue;
    if (!taken.emplace(row.trace, row.sequence).second) continue;
    sim::RecordedSequence sequence = analysis::recorded_sequence(steps, rule_, bytes_per_token);
    sim::RecordedWorkload::Request request{sequence.prompt, sequence.output(), nullptr};
    if (setup.profile) request.cache = sim::recorded_cache(std::move(sequence));
    recorded->requests.push_back(std::move(request));
  }
  auto workload = std::make_shared<sim::ServingWorkload>();
  workload->recorded = std::move(recorded);
  return workload;
}

}  // namespace evictsim
