#pragma once
/// \file
/// How much memory an engine leaves for keys and values, line by line: visible memory x share - weights - activations -
/// overhead. Formulas, constants and their errors on published block counts: docs/models.md.

#include <cstdint>
#include <string>
#include <vector>

#include "models/deployment.h"
#include "models/gpu.h"
#include "models/llm.h"

namespace evictsim::models {

/// What an engine's share of memory is a share of.
enum class ShareOf : std::uint8_t {
  visible,   ///< of visible memory: weights, activations, overhead and KV together (vLLM, gpu_memory_utilization)
  resident,  ///< of visible memory: weights, overhead and KV; activations use the rest (SGLang, mem_fraction_static)
  free,      ///< of what weights, activations and overhead leave: KV (TensorRT-LLM, free_gpu_memory_fraction)
};

/// What an engine takes besides weights and KV. Part of an engine's description (models/engine.h).
struct KvOverhead {
  std::int64_t context_bytes = 0;  ///< per GPU: CUDA context, libraries, workspaces, graphs
  std::int64_t peer_bytes = 0;     ///< per GPU for each other one of its stage, where GPUs have a link of their own
  double activation_factor = 1;    ///< on the formula of peak activations
  double logit_bytes = 4;          ///< at the peak, per sequence and vocabulary entry
  bool whole_embedding = false;    ///< embedding and output head lie whole on every GPU of their stage
  ShareOf share_of = ShareOf::visible;
  bool operator==(const KvOverhead&) const = default;
};

struct KvBudgetOptions {
  double memory_share = 0.9;
  int block_tokens = 16;
  std::int64_t token_budget = 8192;  ///< tokens of the largest step: size of activations
  std::int64_t max_sequences = 256;  ///< rows of logits in the largest step
};

struct KvBudgetLine {
  std::string name;
  std::int64_t bytes = 0;  ///< of one GPU; negative: taken away
  std::string how;         ///< the formula with its numbers
};

/// Of one GPU of the stage with fewest blocks; the GPUs of a tensor-parallel group hold parts of the same tokens.
struct KvBudget {
  std::vector<KvBudgetLine> lines;  ///< add up to kv_bytes
  std::int64_t kv_bytes = 0;
  std::int64_t bytes_per_token = 0;      ///< of the layers that keep every token; of all if none does
  std::int64_t bytes_per_sequence = 0;   ///< besides: full windows and constant states of the other layers
  std::int64_t blocks = 0;               ///< of block_tokens tokens, for one attention copy
  std::int64_t tokens = 0;               ///< blocks * block_tokens
  std::int64_t blocks_per_sequence = 0;  ///< that bytes_per_sequence fill, rounded up
};

/// Bytes of the GPU that a program can use: Gpu::visible_bytes, else 98.5 % of what is sold.
std::int64_t visible_bytes(const Gpu& gpu);

/// Peak bytes of activations of one GPU, without a factor: `token_budget` tokens in the widest layer of the model plus
/// `max_sequences` rows of logits.
double activation_bytes(const Llm& llm, const Deployment& deployment, const KvOverhead& overhead,
                        const KvBudgetOptions& options);

/// Throws Error (invalid_argument) for a share outside (0, 1], counts below 1 or a layout that the model does not
/// allow, Error (unsupported) for a model that keeps no tokens, and Error (out_of_memory) if not one block is left: by
/// how many bytes, and what would fit.
KvBudget kv_budget(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& deployment,
                   const KvBudgetOptions& options);

}  // namespace evictsim::models
