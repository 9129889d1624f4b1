#pragma once
/// \file
/// How one replica of a model lies on its GPUs, and in which types. Formulas: docs/models.md.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/llm.h"

namespace evictsim::models {

/// Layout of one replica. A stage of the pipeline has `tensor_parallel * attention_data_parallel` GPUs; its experts lie
/// on the same GPUs as `moe_tensor_parallel * moe_expert_parallel`.
struct Deployment {
  int tensor_parallel = 1;  ///< of attention and dense feed-forward
  int pipeline_parallel = 1;
  int attention_data_parallel = 1;  ///< copies of attention, each with requests and KV of its own
  int moe_tensor_parallel = 0;      ///< 0: what moe_expert_parallel leaves of the stage
  int moe_expert_parallel = 0;      ///< 0: what moe_tensor_parallel leaves; both 0: no expert parallelism
  /// Types of the weights; none: as the model is published. `weights` is the attention projections, dense feed-forward
  /// and shared experts, and the routed experts too unless `experts` is given.
  std::optional<ElementType> weights, experts;
  ElementType kv = ElementType::bf16;

  [[nodiscard]] int gpus_per_stage() const { return tensor_parallel * attention_data_parallel; }
  [[nodiscard]] int gpus() const { return gpus_per_stage() * pipeline_parallel; }
};

/// The same with both MoE degrees filled in; 1 without experts. Throws Error (invalid_argument), which names the
/// degree, if one is out of 1 to 65536, the MoE degrees do not cover the stage, or the model cannot be cut that way:
/// query heads by tensor_parallel, KV heads by tensor_parallel or the other way round, experts by moe_expert_parallel,
/// layers fewer than stages, or keys and values in a type below 8 bits.
Deployment checked(const Llm& llm, const Deployment& deployment);
WeightTypes weight_types(const Llm& llm, const Deployment& deployment);

/// For texts: "tensor_parallel 2, pipeline_parallel 1, bf16 weights ...".
std::string describe(const Llm& llm, const Deployment& deployment);

// What follows takes a deployment that checked() returned.

/// Layers of one stage: [first, last).
struct Stage {
  std::size_t first = 0, last = 0;
};
/// As even as possible; the layers left over go to stages before the last, from the back, one each, as vLLM does.
std::vector<Stage> stages(const Llm& llm, const Deployment& deployment);

/// KV heads of a layer on one GPU: a share of them, or one copy if there are fewer heads than GPUs.
int kv_heads_per_gpu(const LayerAttention& attention, const Deployment& deployment);
/// Bytes that one GPU stores per token of a layer within its window. Latent vectors lie whole on every GPU of the
/// tensor-parallel group.
double kv_bytes_per_token(const LayerAttention& attention, const Deployment& deployment);
/// Bytes that one GPU stores per token, layers of every kind taken as if no window had been passed: a decode step of a
/// sequence reads mean_entries_read(context) times this. Of the stage that stores most.
double kv_bytes_per_token(const Llm& llm, const Deployment& deployment);
/// Bytes of a linear layer's state on one GPU.
double state_bytes_per_gpu(const LayerAttention& attention, const Deployment& deployment);

/// Weight bytes of one GPU by part, scales included.
using WeightBytes = ModelParts<double>;
/// Of one layer.
WeightBytes weight_bytes_per_gpu(const Llm& llm, const LlmLayer& layer, const Deployment& deployment);
/// Of one stage: its layers; the embedding on the first one, norm and output head on the last one, both shared out over
/// tensor_parallel. `whole_embedding`: every GPU of those stages holds them whole.
WeightBytes weight_bytes_per_gpu(const Llm& llm, const Deployment& deployment, std::size_t stage,
                                 bool whole_embedding = false);
/// Of the stage that has most.
WeightBytes weight_bytes_per_gpu(const Llm& llm, const Deployment& deployment);

}  // namespace evictsim::models
