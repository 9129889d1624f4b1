#pragma once
/// \file
/// Inference engines: what a step costs beyond the hardware's peak rates, fitted to measured serving points, and the
/// defaults of the engine's scheduler and memory pool. JSON in models/engines/; formulas, format and errors:
/// docs/accuracy.md.

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/kv_budget.h"

namespace evictsim::models {

/// The constants of step time (models/step_time.h says where each one stands) and of a closed loop of requests
/// (sim/serving/steady_state.h). Seconds, shares of what the GPU description promises, and pure numbers; all positive.
/// The values here are where a fit starts and what little data pulls towards.
struct EngineConstants {
  double step_seconds = 1e-3;                 ///< host work of a step
  double layer_seconds = 20e-6;               ///< start of a layer's kernels
  double expert_layer_seconds = 30e-6;        ///< more for a layer with experts: router, dispatch, combine
  double collective_seconds = 8e-6;           ///< start of a collective
  double collective_doubling_seconds = 3e-6;  ///< more for every doubling of its GPUs
  double sequence_seconds = 8e-6;             ///< sampling and bookkeeping of a decoding sequence, per attention copy
  double chunk_seconds = 1e-3;                ///< of a prompt's chunk: preparation
  double weight_bandwidth_share = 0.75;       ///< of memory rate, reading weights
  double routing_spread = 0.7;         ///< tokens that draw experts evenly, per token: below 1 as routers prefer some
  double expert_parallel_spread = 1;   ///< on that, where experts are spread over GPUs: above 1 as one has more
  double kv_bandwidth_share = 0.7;     ///< of memory rate, decode attention reading keys and values
  double gemm_flops_share = 0.6;       ///< of peak arithmetic, projections and experts
  double gemm_overlap = 2;             ///< p of (bytes^p + arithmetic^p)^(1/p): 1 their sum, large their maximum
  double attention_flops_share = 0.4;  ///< of peak bf16 arithmetic, prefill attention
  double link_bandwidth_share = 0.6;   ///< of the peer link's rate
  double request_seconds = 20e-3;      ///< once per request, before its first token
  double prefill_interference = 1;     ///< of a prompt's extra step time that other sequences see
  double first_wave_share = 0.1;       ///< of requests that arrive all at once, when a closed loop starts
  double wait_factor = 1;              ///< on the mean wait for the running step and for other prompts
};

/// A constant by name, and the group of constants that adjustments move together.
struct EngineConstant {
  const char* name;
  const char* group;
  double EngineConstants::*member;
};
/// All of them, in the order of EngineConstants.
std::span<const EngineConstant> engine_constants();
/// The same with shares below what hardware can reach: bends smoothly below a ceiling, 0.95 of a rate and 1 of
/// requests. Products of factors are bounded here, so that no adjustment takes a term beyond physics.
EngineConstants bounded(const EngineConstants& constants);
/// Names of the groups, each once, in that order.
std::vector<std::string> engine_constant_groups();

/// A measured departure from the engine's mean: factors on groups of constants. Holds where every field that is not
/// empty agrees; whatever nobody has measured has none, so falls back to the mean.
struct EngineAdjustment {
  std::string version;              ///< of the engine
  std::string gpu;                  ///< Gpu::name
  std::vector<std::string> models;  ///< Llm::name; any of them
  std::string precision;            ///< precision_name()
  std::map<std::string, double> factors;
};

struct Engine {
  std::string name;                  ///< short, as in --engine
  std::string version;               ///< whose adjustments hold; empty: none, the mean over versions
  std::string product;               ///< in full
  std::vector<std::string> sources;  ///< what the constants were fitted to; at least one
  EngineConstants constants;         ///< mean over everything measured
  std::vector<EngineAdjustment> adjustments;

  std::int64_t token_budget = 8192;   ///< tokens of a step
  std::int64_t max_sequences = 1024;  ///< of a step
  std::int64_t block_tokens = 16;     ///< of a KV block
  double memory_share = 0.9;          ///< of visible memory: weights, activations and KV
  /// Of its output, what the scheduler sets aside for a sequence, on average over the sequence's time: 1 where it is
  /// admitted only with room to its last token, 0.5 where blocks are given as it grows (and it may be preempted).
  double held_output_share = 0.5;
  KvOverhead kv_overhead;
};

/// Type of the routed experts' weights, of the feed-forward part's in a dense model: "fp8".
std::string precision_name(const Llm& llm, const Deployment& deployment);
/// The constants with every adjustment that holds, bounded.
EngineConstants adjusted_constants(const Engine& engine, const std::string& gpu, const std::string& model,
                                   const std::string& precision);
/// Those with adjustments, ascending.
std::vector<std::string> engine_versions(const Engine& engine);

/// Reads one description. Throws Error: file_not_found, permission_denied, invalid_value, missing_data, wrong_type,
/// unknown_name, unsupported_version; each names the file and the field.
Engine read_engine(const std::filesystem::path& file);
/// Writes it whole or not at all. Throws Error (io_failure).
void write_engine(const std::filesystem::path& file, const Engine& engine);
/// The description of that name among those found when the program runs (models/data_files.h), or of that path. A
/// version follows a colon: "vllm:0.19.0". Throws Error (unknown_name), which lists names or versions.
Engine find_engine(const std::string& name);

}  // namespace evictsim::models
