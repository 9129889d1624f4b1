#pragma once
/// \file
/// Time of one engine step as a sum of terms that can be looked at one by one. Formulas: docs/accuracy.md.

#include <cstdint>
#include <string>
#include <vector>

#include "models/engine.h"

namespace evictsim::models {

/// Time in integers, so that sums do not depend on their order: 1 s = 1e15. A step stays below 9000 s.
using Femtoseconds = std::int64_t;

/// What one step of one replica computes. Counts are over the whole replica; StepTime divides them among its GPUs.
struct StepWork {
  std::int64_t decode_sequences = 0;   ///< that decode one token each
  std::int64_t decode_entries = 0;     ///< KV entries that their attention reads, summed; of each, mean_entries_read()
  std::int64_t prefill_sequences = 0;  ///< that compute a chunk of their prompt, each on one copy of attention
  std::int64_t prefill_tokens = 0;     ///< query tokens of the chunks
  std::int64_t prefill_context = 0;    ///< KV entries that the chunks read, summed: cached and own
  std::int64_t prefill_pairs = 0;      ///< query-key pairs of one query head: c*k + c*(c+1)/2 for c tokens on k cached
};

/// The same as means over many steps.
struct MeanStepWork {
  double decode_sequences = 0, decode_entries = 0;
  double prefill_sequences = 0, prefill_tokens = 0, prefill_context = 0, prefill_pairs = 0;
};

struct StepTerm {
  std::string name;
  double seconds = 0;
};

/// Work and bytes of a model on its GPUs as seconds at the rates of the GPU's description, before any constant of an
/// engine. Of one GPU, over all stages of the pipeline.
struct StepShape {
  struct Experts {  ///< layers whose routers are alike
    double experts = 0, per_token = 0;
    double read_seconds = 0;  ///< all of the GPU's experts in all of these layers
  };
  struct Pairs {         ///< layers that look back equally far
    double window = 0;   ///< tokens; 0: any number
    double seconds = 0;  ///< per query-key pair of one query head
  };
  double read_seconds = 0;  ///< weights that every step reads
  std::vector<Experts> experts;
  double token_seconds = 0;             ///< arithmetic of matrix products per token, but for routed experts
  double expert_token_seconds = 0;      ///< and of those
  double sampled_token_seconds = 0;     ///< of the output head
  double entry_read_seconds = 0;        ///< decode attention per KV entry, bytes
  double entry_arithmetic_seconds = 0;  ///< and arithmetic
  double state_seconds = 0;             ///< constant states per decoding sequence, read and written
  std::vector<Pairs> pairs;
  double layers = 0, expert_layers = 0;
  double collectives = 0;               ///< per step
  double collective_doublings = 0;      ///< log2 of GPUs, summed over them
  double collective_token_seconds = 0;  ///< per token, links at their full rate
  double attention_copies = 1;
  bool experts_spread = false;  ///< over GPUs, by expert parallelism
  double stages = 1;

  StepShape() = default;
  /// Throws Error (invalid_argument) for a layout that the model does not allow, (missing_data) for a rate that the
  /// GPU's description lacks.
  StepShape(const Llm& llm, const Gpu& gpu, const Deployment& requested);
};

class StepTime {
 public:
  /// With the constants of `engine` adjusted to what runs. Throws as StepShape does.
  StepTime(const Llm& llm, const Gpu& gpu, const Engine& engine, const Deployment& deployment);
  StepTime(StepShape shape, const EngineConstants& constants);
  [[nodiscard]] const StepShape& shape() const { return shape_; }

  /// Never falls when a count grows, but for `prefill_sequences` where attention has copies: they then share the
  /// prompts' tokens. With everything else fixed it is exactly `constant + per_decode_entry() *
  /// decode_entries`. A step without work takes no time. Throws Error (invalid_argument) for a negative count or a step
  /// of more than 9000 s.
  [[nodiscard]] Femtoseconds of(const StepWork& work) const;
  [[nodiscard]] Femtoseconds per_decode_entry() const { return per_decode_entry_; }
  /// Add up to of(), up to the rounding of each term. All terms, also those of 0 s.
  [[nodiscard]] std::vector<StepTerm> terms(const StepWork& work) const;
  /// Paid once per request, before its first token and outside its steps: tokenise, schedule, detokenise.
  [[nodiscard]] Femtoseconds per_request() const;
  /// of() in seconds, without its rounding.
  [[nodiscard]] double seconds(const MeanStepWork& work) const;

 private:
  struct Sums;
  [[nodiscard]] Sums sums(const MeanStepWork& work) const;

  StepShape shape_;
  EngineConstants constants_;
  double entry_seconds_ = 0;
  Femtoseconds per_decode_entry_ = 0;
};

}  // namespace evictsim::models
