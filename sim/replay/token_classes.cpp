#include "sim/replay/token_classes.h"

namespace evictsim::sim {

TokenClasses::TokenClasses(const traces::SequenceInfo& sequence, std::int32_t sinks)
    : prompt_length_(sequence.prompt_length), sinks_(std::min(sinks, sequence.length)) {
  const auto spans = sequence.spans.find("distractor");
  has_spans_ = spans != sequence.spans.end();
  if (!has_spans_) return;
  for (const traces::Span& span : spans->second) {
    for (std::int32_t row = std::max(span.first, sinks_); row < span.last; ++row) distractors_.push_back(row);
  }
  std::sort(distractors_.begin(), distractors_.end());
  distractors_.erase(std::unique(distractors_.begin(), distractors_.end()), distractors_.end());
}

void TokenClasses::fill_rest(double total, ClassMasses& masses) const {
  if (has_spans_) return;
  double& rest = masses[of(TokenClass::distractor)];
  rest = std::max(
      0.0, total - masses[of(TokenClass::sink)] - masses[of(TokenClass::useful)] - masses[of(TokenClass::decoded)]);
}

}  // namespace evictsim::sim
