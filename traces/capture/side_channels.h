#pragma once
/// \file
/// Per-token channels of a trace (docs/trace-format.md), computed step by step.

#include <cstdint>
#include <span>
#include <vector>

#include "traces/capture/step_rows.h"
#include "traces/capture/token_statistics.h"
#include "traces/header.h"
#include "traces/writer.h"

namespace evictsim::traces::capture {

/// Gathers entropies, log-probabilities and norms of one sequence.
class SideChannels {
 public:
  /// `token_ids` [T] is the whole sequence; `with_attention` says whether steps carry `after_attention`.
  SideChannels(const Header& header, std::vector<std::int32_t> token_ids, bool with_attention);

  /// Takes the next rows; steps come in order and without gaps.
  void add(const StepRows& step);
  /// Writes every channel; call it after the last step.
  void write(Writer& writer) const;

  /// The most probable token after row `row`.
  [[nodiscard]] std::int32_t most_probable(std::size_t row) const { return most_probable_[row]; }

 private:
  void add_distributions(const StepRows& step);
  void add_norms(const StepRows& step);

  std::vector<int> layers_;
  std::size_t hidden_, vocabulary_, length_;
  std::vector<std::int32_t> token_ids_;
  bool with_attention_;
  DistributionReducer reducer_;
  std::vector<std::int32_t> most_probable_;
  std::vector<float> entropy_, entropy_top_, logprob_;                        // [T], [T, 3], [T]
  std::vector<float> step_norm_, cos_final_, cos_attention_, residual_norm_;  // [L, T]
  std::vector<float> final_norm_input_;                                       // [T]
  std::vector<std::vector<float>> last_output_;                               // per layer, the output of the row before
};

}  // namespace evictsim::traces::capture
