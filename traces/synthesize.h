#pragma once
/// \file
/// Seeded synthetic traces whose attention has a prescribed structure.
///
/// Logits are made, not hoped for. Queries and keys carry fixed components on the two slowest RoPE pairs, where
/// rotation over the length of the trace hardly turns them: the slowest carries sinks and heavy hitters, the next
/// needles and their distractors. The other pairs carry a constant that RoPE itself turns into a preference for recent
/// tokens, plus Gaussian noise. The pre-RoPE vectors are then rotated with inv_freq and positions, as a model would.

#include <cstdint>
#include <filesystem>

#include "traces/header.h"

namespace evictsim::traces {

struct SynthOptions {
  std::uint64_t seed = 0;
  // Geometry.
  int layers = 2;  ///< captured layers, 0 .. layers-1; also num_layers
  int query_heads = 8;
  int kv_heads = 2;
  int head_dim = 64;  ///< even, at least 8
  int hidden_size = 512;
  int vocab_size = 1000;
  int prompt = 512;
  int decode = 32;
  int sequences = 1;
  TensorType tensor_type = TensorType::float16;
  bool compress = false;
  RopeLayout rope_layout = RopeLayout::half;
  double rope_theta = 500000;
  bool all_queries =
      false;  ///< queries of every token; otherwise of the last `window` prompt tokens and all decode rows
  int window = 64;
  bool hidden_states = false;  ///< also x
  // Structure: contributions to the logit, in nats.
  int sinks = 4;
  double sink_logit = 6;
  double recency_logit = 4;  ///< of a token on itself; falls with distance
  int heavy_hitters = 8;     ///< prompt tokens that every query attends to
  double heavy_logit = 4;
  int needles = 2;  ///< evidence spans that decode queries attend to
  int needle_width = 4;
  double needle_logit = 8;
  int distractors = 4;          ///< single tokens near a needle's logit, outside the evidence
  double distractor_gap = 0.5;  ///< their logits lie below the needles' by up to this
  double noise_logit = 0.5;     ///< standard deviation
  // Other passes.
  bool second_pass = false;   ///< the prompt read again as one chunk; every row looks at the token it repeats
  int documents = 0;          ///< equal parts of the prompt behind the sinks, recorded alone: bare, and wrapped
  double packet_noise = 0.3;  ///< standard deviation of what a component of k or v differs by when read alone
};

/// Writes the trace to `path`, sealed. The same options give the same tensors on every machine. Throws
/// Error(invalid_argument) naming the option, and what Writer throws.
void synthesize(const std::filesystem::path& path, const SynthOptions& options);

}  // namespace evictsim::traces
