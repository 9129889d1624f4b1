#include "models/deployment.h"

#include <fmt/format.h>

#include <algorithm>

#include "traces/error.h"

namespace evictsim::models {
namespace {

constexpr int most_parallel = 1 << 16;
constexpr double plain_bytes = 2;  ///< of what is never quantised: bf16

[[noreturn]] void refuse(const char* parameter, int value, const std::string& rule) {
  throw Error(ErrorCode::invalid_argument, rule,
              {.file = {}, .dataset = {}, .parameter = parameter, .value = std::to_string(value)});
}

/// Both degrees of the experts, so that they cover the stage.
void fill_in_experts(const Llm& llm, Deployment& d) {
  if (!has_experts(llm)) {
    d.moe_tensor_parallel = d.moe_expert_parallel = 1;
    return;
  }
  const int gpus = d.gpus_per_stage();
  if (d.moe_expert_parallel == 0 && d.moe_tensor_parallel == 0) d.moe_expert_parallel = 1;
  if (d.moe_tensor_parallel == 0) d.moe_tensor_parallel = gpus / d.moe_expert_parallel;
  if (d.moe_expert_parallel == 0) d.moe_expert_parallel = gpus / d.moe_tensor_parallel;
  if (std::int64_t{d.moe_tensor_parallel} * d.moe_expert_parallel != gpus) {
    refuse(
        "moe_expert_parallel", d.moe_expert_parallel,
        fmt::format("moe_tensor_parallel {} times this must be the {} GPUs of a stage", d.moe_tensor_parallel, gpus));
  }
  for (const LlmLayer& layer : llm.layers) {
    const int experts = layer.feed_forward.experts;
    if (experts % d.moe_expert_parallel != 0) {
      refuse("moe_expert_parallel", d.moe_expert_parallel, fmt::format("does not divide {} experts", experts));
    }
  }
}

void check_heads(const Llm& llm, const Deployment& d) {
  for (const LlmLayer& layer : llm.layers) {
    const LayerAttention& a = layer.attention;
    if (a.query_heads % d.tensor_parallel != 0) {
      refuse("tensor_parallel", d.tensor_parallel, fmt::format("does not divide {} query heads", a.query_heads));
    }
    if (a.kv_heads % d.tensor_parallel != 0 && d.tensor_parallel % a.kv_heads != 0) {
      refuse("tensor_parallel", d.tensor_parallel, fmt::format("does not share out {} KV heads", a.kv_heads));
    }
  }
}

/// The part of a count that is the same on every GPU, and the part that tensor parallelism divides.
struct Cut {
  double whole = 0, divided = 0;
};

Cut cut_of_attention(const Llm& llm, const LlmLayer& layer, const Deployment& d) {
  const LayerAttention& a = layer.attention;
  const auto hidden = static_cast<double>(llm.hidden_size);
  const auto all = static_cast<double>(parameters(llm, layer).attention);
  Cut cut;
  if (a.kind == AttentionKind::latent) {
    // The compressing projections and the indexer work on every token for all heads.
    cut.whole = hidden * (a.query_rank + a.latent_rank + a.rope_dim);
    if (a.index_heads > 0) {
      cut.whole +=
          static_cast<double>(a.query_rank) * a.index_heads * a.index_dim + hidden * (a.index_dim + a.index_heads);
    }
  } else if (a.kind != AttentionKind::linear) {
    const double width = a.head_dim + a.value_head_dim;
    const double biased = hidden + (a.query_key_value_bias ? 1 : 0);
    const double keys_values = biased * a.kv_heads * width;
    cut.whole = biased * kv_heads_per_gpu(a, d) * width;
    cut.divided = all - keys_values;
    return cut;
  }
  cut.divided = all - cut.whole;
  return cut;
}

}  // namespace

Deployment checked(const Llm& llm, const Deployment& deployment) {
  Deployment d = deployment;
  const auto degree = [](const char* name, int value, int least) {
    if (value < least || value > most_parallel)
      refuse(name, value, fmt::format("must be from {} to {}", least, most_parallel));
  };
  degree("tensor_parallel", d.tensor_parallel, 1);
  degree("pipeline_parallel", d.pipeline_parallel, 1);
  degree("attention_data_parallel", d.attention_data_parallel, 1);
  degree("moe_tensor_parallel", d.moe_tensor_parallel, 0);
  degree("moe_expert_parallel", d.moe_expert_parallel, 0);
  const std::int64_t gpus = std::int64_t{d.tensor_parallel} * d.attention_data_parallel * d.pipeline_parallel;
  if (gpus > most_parallel)
    refuse("tensor_parallel", d.tensor_parallel, fmt::format("a replica of {} GPUs is too large", gpus));
  const auto layers = static_cast<std::int64_t>(llm.layers.size());
  if (d.pipeline_parallel > layers)
    refuse("pipeline_parallel", d.pipeline_parallel, fmt::format("there are {} layers", layers));
  if (bytes_of(d.kv) < 1) {
    throw Error(ErrorCode::invalid_argument, "keys and values are stored in at least 8 bits: f32, bf16, f16, fp8, int8",
                {.file = {}, .dataset = {}, .parameter = "kv", .value = to_string(d.kv)});
  }
  check_heads(llm, d);
  fill_in_experts(llm, d);
  return d;
}

WeightTypes weight_types(const Llm& llm, const Deployment& deployment) {
  WeightTypes types = llm.weights;
  if (deployment.weights) types = {*deployment.weights, *deployment.weights, *deployment.weights};
  if (deployment.experts) types.experts = *deployment.experts;
  return types;
}

std::string describe(const Llm& llm, const Deployment& d) {
  const WeightTypes types = weight_types(llm, d);
  std::string text = fmt::format("tensor_parallel {}, pipeline_parallel {}", d.tensor_parallel, d.pipeline_parallel);
  if (d.attention_data_parallel > 1) text += fmt::format(", attention_data_parallel {}", d.attention_data_parallel);
  if (has_experts(llm)) {
    text += fmt::format(", moe_tensor_parallel {}, moe_expert_parallel {}, {} experts", d.moe_tensor_parallel,
                        d.moe_expert_parallel, to_string(types.experts));
  }
  return fmt::format("{}, {} weights, {} KV", text, to_string(types.attention), to_string(d.kv));
}

std::vector<Stage> stages(const Llm& llm, const Deployment& deployment) {
  const auto count = static_cast<std::size_t>(deployment.pipeline_parallel);
  const std::size_t each = llm.layers.size() / count, left = llm.layers.size() % count;
  std::vector<Stage> list(count);
  std::size_t next = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const bool one_more = i + 1 < count && count - 1 - i <= left;
    list[i] = {next, next + each + (one_more ? 1 : 0)};
    next = list[i].last;
  }
  return list;
}

int kv_heads_per_gpu(const LayerAttention& attention, const Deployment& deployment) {
  return std::max(1, attention.kv_heads / deployment.tensor_parallel);
}

double kv_bytes_per_token(const LayerAttention& attention, const Deployment& deployment) {
  const double bytes = bytes_of(deployment.kv);
  if (attention.kind == AttentionKind::latent) {
    return bytes * static_cast<double>(kv_elements_per_token(attention));
  }
  if (attention.kind == AttentionKind::linear) return 0;
  return bytes * kv_heads_per_gpu(attention, deployment) * (attention.head_dim + attention.value_head_dim);
}

double kv_bytes_per_token(const Llm& llm, const Deployment& deployment) {
  double most = 0;
  for (const Stage& stage : stages(llm, deployment)) {
    double sum = 0;
    for (std::size_t i = stage.first; i < stage.last; ++i)
      sum += kv_bytes_per_token(llm.layers[i].attention, deployment);
    most = std::max(most, sum);
  }
  return most;
}

double state_bytes_per_gpu(const LayerAttention& attention, const Deployment& deployment) {
  return static_cast<double>(state_bytes_per_sequence(attention)) / deployment.tensor_parallel;
}

WeightBytes weight_bytes_per_gpu(const Llm& llm, const LlmLayer& layer, const Deployment& d) {
  const ParameterCount count = parameters(llm, layer);
  const WeightTypes types = weight_types(llm, d);
  const Cut attention = cut_of_attention(llm, layer, d);
  const auto share = [&](std::int64_t part, int gpus) { return static_cast<double>(part) / gpus; };
  WeightBytes bytes;
  bytes.attention = bytes_of(types.attention) * (attention.whole + attention.divided / d.tensor_parallel);
  bytes.dense = bytes_of(types.feed_forward) * share(count.dense, d.tensor_parallel);
  bytes.shared_experts = bytes_of(types.feed_forward) * share(count.shared_experts, d.tensor_parallel);
  bytes.routed_experts =
      bytes_of(types.experts) * share(count.routed_experts, d.moe_tensor_parallel * d.moe_expert_parallel);
  bytes.router = plain_bytes * share(count.router, 1);
  bytes.norms = plain_bytes * share(count.norms, 1);
  return bytes;
}

WeightBytes weight_bytes_per_gpu(const Llm& llm, const Deployment& d, std::size_t stage, bool whole_embedding) {
  const Stage range = stages(llm, d).at(stage);
  WeightBytes sum;
  for (std::size_t i = range.first; i < range.last; ++i) sum += weight_bytes_per_gpu(llm, llm.layers[i], d);
  const double share = plain_bytes / (whole_embedding ? 1 : d.tensor_parallel);
  const auto hidden = static_cast<double>(llm.hidden_size);
  const bool first = stage == 0, last = stage + 1 == static_cast<std::size_t>(d.pipeline_parallel);
  if (first) sum.embedding = share * hidden * static_cast<double>(llm.vocabulary + llm.learned_positions);
  if (last) {
    sum.norms += plain_bytes * hidden * (llm.norm_bias ? 2 : 1);
    if (!llm.tied_embeddings || !first) sum.output_head = share * hidden * static_cast<double>(llm.vocabulary);
  }
  return sum;
}

WeightBytes weight_bytes_per_gpu(const Llm& llm, const Deployment& d) {
  WeightBytes most;
  for (std::size_t stage = 0; stage < static_cast<std::size_t>(d.pipeline_parallel); ++stage) {
    const WeightBytes bytes = weight_bytes_per_gpu(llm, d, stage);
    if (bytes.total() > most.total()) most = bytes;
  }
  return most;
}

}  // namespace evictsim::models
