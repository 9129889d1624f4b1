#include "traces/capture/token_statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace evictsim::traces::capture {

Distribution DistributionReducer::reduce(std::span<const float> logits) {
  Distribution result;
  const auto highest = std::max_element(logits.begin(), logits.end());
  result.most_probable = static_cast<std::int32_t>(highest - logits.begin());
  const auto top = static_cast<double>(*highest);
  double sum = 0, weighted = 0;
  for (const float logit : logits) {
    const double shifted = static_cast<double>(logit) - top;
    const double weight = std::exp(shifted);
    sum += weight;
    if (weight > 0) weighted += weight * shifted;
  }
  result.log_normaliser = top + std::log(sum);
  result.entropy = std::log(sum) - weighted / sum;

  largest_.assign(logits.begin(), logits.end());
  const std::size_t count = std::min(entropy_tops.back(), largest_.size());
  const auto cut = largest_.begin() + static_cast<std::ptrdiff_t>(count);
  if (cut != largest_.end()) std::nth_element(largest_.begin(), cut, largest_.end(), std::greater<>());
  std::sort(largest_.begin(), cut, std::greater<>());
  double truncated = 0;
  std::size_t place = 0;
  for (std::size_t i = 0; i < entropy_tops.size(); ++i) {
    for (; place < std::min(entropy_tops[i], count); ++place) {
      const double log_probability = static_cast<double>(largest_[place]) - result.log_normaliser;
      const double probability = std::exp(log_probability);
      if (probability > 0) truncated -= probability * log_probability;
    }
    result.entropy_top[i] = truncated;
  }
  return result;
}

}  // namespace evictsim::traces::capture
