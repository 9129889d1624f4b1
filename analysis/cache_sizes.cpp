#include "analysis/cache_sizes.h"

#include <algorithm>

namespace evictsim::analysis {

std::vector<std::size_t> sampled_steps(std::size_t count) {
  const std::size_t samples = std::min(count, most_sampled_steps);
  std::vector<std::size_t> steps;
  for (std::size_t sample = 0; sample < samples; ++sample) {
    steps.push_back(samples == 1 ? 0 : sample * (count - 1) / (samples - 1));
  }
  return steps;
}

void LayerSizes::begin(const sim::PromptCut& cut, std::size_t samples) {
  kept.clear();
  for (const std::vector<std::int32_t>& entries : cut.kept) kept.push_back(static_cast<std::int32_t>(entries.size()));
  resident.assign(samples * kept.size(), not_sampled);
  scored_entries = cut.scored_entries;
  placed = cut.stored.has_value();
}

void LayerSizes::note(const sim::LayerBlock& block, std::size_t index, std::size_t sample) {
  const auto of_row = block.resident.subspan(index * kept.size(), kept.size());
  std::copy(of_row.begin(), of_row.end(), resident.begin() + static_cast<std::ptrdiff_t>(sample * kept.size()));
}

}  // namespace evictsim::analysis
