#include "traces/capture/damage/next_token.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace evictsim::traces::capture {
namespace {

double log_sum(std::span<const float> logits, float largest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  return static_cast<double>(largest) + std::log(sum);
}

std::size_t largest_index(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

NextTokenReference::NextTokenReference(std::span<const float> logits, std::size_t vocabulary,
                                       std::vector<std::int32_t> next)
    : vocabulary_(vocabulary), logits_(logits.begin(), logits.end()), next_(std::move(next)) {
  probabilities_.reserve(logits_.size());
  for (std::size_t first = 0; first < logits_.size(); first += vocabulary_) {
    const auto row = std::span(logits_).subspan(first, vocabulary_);
    best_.push_back(largest_index(row));
    log_sums_.push_back(log_sum(row, row[best_.back()]));
    for (const float logit : row) {
      probabilities_.push_back(static_cast<float>(std::exp(static_cast<double>(logit) - log_sums_.back())));
    }
  }
}

NextTokenChange NextTokenReference::compare(std::span<const float> logits) const {
  const std::size_t rows = log_sums_.size();
  NextTokenChange sum;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto full = std::span(logits_).subspan(r * vocabulary_, vocabulary_);
    const auto probability = std::span(probabilities_).subspan(r * vocabulary_, vocabulary_);
    const auto other = logits.subspan(r * vocabulary_, vocabulary_);
    const std::size_t best = largest_index(other);
    const double shift = log_sum(other, other[best]) - log_sums_[r];
    double lost = 0;
    for (std::size_t token = 0; token < vocabulary_; ++token) {
      lost += static_cast<double>(probability[token]) * static_cast<double>(full[token] - other[token]);
    }
    sum.kl += lost + shift;
    sum.top1_agreement += best == best_[r] ? 1.0 : 0.0;
    if (r < next_.size()) {
      const auto token = static_cast<std::size_t>(next_[r]);
      sum.nll_change += static_cast<double>(full[token] - other[token]) + shift;
    }
  }
  const auto count = static_cast<double>(rows);
  // Identical distributions come out as rounding around 0.
  sum.kl = std::max(0.0, sum.kl / count);
  sum.top1_agreement /= count;
  sum.nll_change =
      next_.empty() ? std::numeric_limits<double>::quiet_NaN() : sum.nll_change / static_cast<double>(next_.size());
  return sum;
}

}  // namespace evictsim::traces::capture
