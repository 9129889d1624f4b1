#include "analysis/plan_series.h"

#include <algorithm>

namespace evictsim::analysis {

PlanSeries PlanSeries::of(const sim::ServingResult& result, std::int64_t block_tokens) {
  PlanSeries series;
  for (const sim::ReplicaTotals& replica : result.replicas) {
    series.kv_capacity_tokens += static_cast<double>(replica.blocks * block_tokens);
  }
  const std::vector<sim::ServingSample>& samples = result.series;
  if (samples.empty()) return series;
  const std::size_t length = (samples.size() + most_spans - 1) / most_spans;
  for (std::size_t begin = 0; begin < samples.size(); begin += length) {
    const std::size_t end = std::min(begin + length, samples.size());
    double used = 0, running = 0, waiting = 0;
    for (std::size_t i = begin; i < end; ++i) {
      used += static_cast<double>(samples[i].used_blocks);
      running += static_cast<double>(samples[i].running);
      waiting += static_cast<double>(samples[i].waiting);
    }
    const auto count = static_cast<double>(end - begin);
    series.seconds.push_back(sim::to_seconds(samples[begin].time));
    series.kv_tokens.push_back(used / count * static_cast<double>(block_tokens));
    series.running.push_back(running / count);
    series.waiting.push_back(waiting / count);
  }
  return series;
}

}  // namespace evictsim::analysis
