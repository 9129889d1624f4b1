#include "models/kv_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "traces/error.h"

namespace evictsim::models {
namespace {

constexpr double visible_share = 0.985;   ///< of the memory as sold, where nobody measured it
constexpr double activation_element = 2;  ///< bf16
constexpr int most_tensor_parallel = 64;  ///< tried for "what would fit"

/// Numbers per token and GPU that live at once while a layer's feed-forward part runs.
double feed_forward_width(const LayerFeedForward& f, double hidden, const Deployment& d) {
  const double matrices = f.gated ? 3 : 2;
  if (f.experts == 0) return matrices * static_cast<double>(f.intermediate) / d.tensor_parallel;
  const double inner = matrices * static_cast<double>(f.expert_intermediate) / d.moe_tensor_parallel + hidden;
  return f.experts_per_token * inner / d.moe_expert_parallel +
         matrices * static_cast<double>(f.shared_intermediate) / d.tensor_parallel;
}

/// The same while its attention runs: queries, keys, values and outputs.
double attention_width(const LayerAttention& a, const Deployment& d) {
  const double width = a.head_dim + a.value_head_dim + (a.kind == AttentionKind::latent ? a.rope_dim : 0);
  return width * (a.query_heads + a.kv_heads) / d.tensor_parallel;
}

double rotary_bytes(const Llm& llm) {
  if (llm.learned_positions > 0) return 0;
  double widest = 0;
  for (const LlmLayer& layer : llm.layers) {
    const LayerAttention& a = layer.attention;
    if (a.kind == AttentionKind::linear) continue;
    widest = std::max(widest, static_cast<double>(a.kind == AttentionKind::latent ? a.rope_dim : a.head_dim));
  }
  return activation_element * widest * static_cast<double>(llm.longest_context);
}

/// Collects lines whose rounded bytes add up.
class Lines {
 public:
  void add(const std::string& name, double bytes, const std::string& how) {
    if (bytes == 0) return;
    lines_.push_back({name, std::llround(bytes), how});
    sum_ += lines_.back().bytes;
  }
  [[nodiscard]] std::int64_t sum() const { return sum_; }
  std::vector<KvBudgetLine> take() { return std::move(lines_); }

 private:
  std::vector<KvBudgetLine> lines_;
  std::int64_t sum_ = 0;
};

void add_weights(Lines& lines, const Llm& llm, const Deployment& d, std::size_t stage, bool whole_embedding) {
  const WeightBytes bytes = weight_bytes_per_gpu(llm, d, stage, whole_embedding);
  const WeightTypes types = weight_types(llm, d);
  const std::string cut = fmt::format("tensor_parallel {}", d.tensor_parallel);
  lines.add("attention weights", -bytes.attention, fmt::format("{}, {}", to_string(types.attention), cut));
  lines.add("feed-forward weights", -bytes.dense, fmt::format("{}, {}", to_string(types.feed_forward), cut));
  lines.add("routed expert weights", -bytes.routed_experts,
            fmt::format("{}, moe_tensor_parallel {}, moe_expert_parallel {}", to_string(types.experts),
                        d.moe_tensor_parallel, d.moe_expert_parallel));
  lines.add("shared expert weights", -bytes.shared_experts, fmt::format("{}, {}", to_string(types.feed_forward), cut));
  lines.add("router and norm weights", -bytes.router - bytes.norms, "bf16, whole on every GPU");
  const std::string share = whole_embedding ? "whole on every GPU" : cut;
  lines.add("embedding weights", -bytes.embedding, fmt::format("bf16, {}", share));
  lines.add("output head weights", -bytes.output_head, fmt::format("bf16, {}", share));
}

void add_overhead(Lines& lines, const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& d) {
  lines.add("rotary tables", -rotary_bytes(llm),
            fmt::format("{} positions x rotated width x 2 bytes", llm.longest_context));
  lines.add("context and workspaces", -static_cast<double>(overhead.context_bytes), "engine constant");
  const int others = gpu.peer ? d.gpus_per_stage() - 1 : 0;
  lines.add("links to other GPUs", -static_cast<double>(overhead.peer_bytes) * others,
            fmt::format("engine constant of {} bytes x {} other GPUs", overhead.peer_bytes, others));
}

void add_activations(Lines& lines, const Llm& llm, const KvOverhead& overhead, const Deployment& d,
                     const KvBudgetOptions& options) {
  lines.add("peak activations", -overhead.activation_factor * activation_bytes(llm, d, overhead, options),
            fmt::format("{} x ({} tokens in the widest layer + {} x {} logits x {} bytes)", overhead.activation_factor,
                        options.token_budget, options.max_sequences, llm.vocabulary, overhead.logit_bytes));
}

/// Bytes that the layers of a stage keep per token and, besides, per sequence.
struct Kept {
  double per_token = 0, per_sequence = 0;
};

Kept kept_by(const Llm& llm, const Deployment& d, const Stage& stage) {
  Kept kept;
  double windows = 0, width_of_windows = 0;
  for (std::size_t i = stage.first; i < stage.last; ++i) {
    const LayerAttention& a = llm.layers[i].attention;
    const double bytes = kv_bytes_per_token(a, d);
    kept.per_sequence += state_bytes_per_gpu(a, d);
    if (a.kind == AttentionKind::sliding) {
      windows += bytes * static_cast<double>(a.window);
      width_of_windows += bytes;
    } else {
      kept.per_token += bytes;
    }
  }
  if (kept.per_token > 0) {
    kept.per_sequence += windows;
  } else {
    kept.per_token = width_of_windows;
  }
  return kept;
}

KvBudget budget_of_stage(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& d,
                         const KvBudgetOptions& options, std::size_t stage) {
  Lines lines;
  const auto visible = static_cast<double>(visible_bytes(gpu));
  const bool of_free = overhead.share_of == ShareOf::free;
  lines.add(of_free ? "visible memory" : "visible memory x share", of_free ? visible : visible * options.memory_share,
            of_free ? gpu.name : fmt::format("{}: {:.0f} bytes x {}", gpu.name, visible, options.memory_share));
  add_weights(lines, llm, d, stage, overhead.whole_embedding);
  if (overhead.share_of != ShareOf::resident) add_activations(lines, llm, overhead, d, options);
  add_overhead(lines, llm, gpu, overhead, d);
  if (of_free && lines.sum() > 0) {
    const auto rest = static_cast<double>(lines.sum());
    lines.add("kept free", -(1 - options.memory_share) * rest,
              fmt::format("{:.0f} bytes left x (1 - {})", rest, options.memory_share));
  }
  const Kept kept = kept_by(llm, d, stages(llm, d)[stage]);
  KvBudget budget;
  budget.kv_bytes = lines.sum();
  budget.lines = lines.take();
  budget.bytes_per_token = static_cast<std::int64_t>(std::ceil(kept.per_token));
  budget.bytes_per_sequence = static_cast<std::int64_t>(std::ceil(kept.per_sequence));
  // A stage of linear layers alone bounds no tokens.
  if (budget.bytes_per_token == 0) {
    budget.blocks = budget.kv_bytes < 0 ? 0 : std::numeric_limits<std::int64_t>::max() / options.block_tokens;
    return budget;
  }
  const std::int64_t block = budget.bytes_per_token * options.block_tokens;
  budget.blocks = std::max<std::int64_t>(0, budget.kv_bytes / block);
  budget.tokens = budget.blocks * options.block_tokens;
  budget.blocks_per_sequence = (budget.bytes_per_sequence + block - 1) / block;
  return budget;
}

/// Of the stage that holds fewest tokens.
KvBudget smallest_budget(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& d,
                         const KvBudgetOptions& options) {
  KvBudget smallest;
  for (std::size_t stage = 0; stage < static_cast<std::size_t>(d.pipeline_parallel); ++stage) {
    KvBudget budget = budget_of_stage(llm, gpu, overhead, d, options, stage);
    const bool fewer =
        budget.blocks < smallest.blocks || (budget.blocks == smallest.blocks && budget.kv_bytes < smallest.kv_bytes);
    if (stage == 0 || fewer) smallest = std::move(budget);
  }
  return smallest;
}

bool fits(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& deployment,
          const KvBudgetOptions& options) {
  try {
    return smallest_budget(llm, gpu, overhead, checked(llm, deployment), options).blocks > 0;
  } catch (const Error&) {
    return false;  // the model cannot be cut that way
  }
}

std::string what_would_fit(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& d,
                           const KvBudgetOptions& options) {
  for (int degree = d.tensor_parallel + 1; degree <= most_tensor_parallel; ++degree) {
    Deployment wider = d;
    wider.tensor_parallel = degree;
    wider.moe_tensor_parallel = 0;
    if (fits(llm, gpu, overhead, wider, options)) return fmt::format("tensor_parallel {} would fit", degree);
  }
  return fmt::format("no tensor_parallel up to {} would fit", most_tensor_parallel);
}

std::string smaller_type_that_fits(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& d,
                                   const KvBudgetOptions& options) {
  const double now = weight_bytes_per_gpu(llm, d).total();
  for (const ElementType type : {ElementType::fp8, ElementType::nvfp4}) {
    Deployment smaller = d;
    smaller.weights = smaller.experts = type;
    if (weight_bytes_per_gpu(llm, smaller).total() < now && fits(llm, gpu, overhead, smaller, options)) {
      return fmt::format(", and so would {} weights", to_string(type));
    }
  }
  return {};
}

/// Also keeps every product below 2^63.
void check_options(const KvBudgetOptions& options, const KvOverhead& overhead) {
  if (!(options.memory_share > 0 && options.memory_share <= 1)) {
    throw Error(
        ErrorCode::invalid_argument, "must be above 0 and at most 1",
        {.file = {}, .dataset = {}, .parameter = "memory_share", .value = fmt::format("{}", options.memory_share)});
  }
  const auto within = [](const char* parameter, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && value <= most) return;
    throw Error(ErrorCode::invalid_argument, fmt::format("must be from {} to {}", least, most),
                {.file = {}, .dataset = {}, .parameter = parameter, .value = std::to_string(value)});
  };
  within("block_tokens", options.block_tokens, 1, 1 << 20);
  within("token_budget", options.token_budget, 1, 1 << 30);
  within("max_sequences", options.max_sequences, 1, 1 << 30);
  within("context_bytes", overhead.context_bytes, 0, std::int64_t{1} << 42);
  within("peer_bytes", overhead.peer_bytes, 0, std::int64_t{1} << 42);
}

}  // namespace

std::int64_t visible_bytes(const Gpu& gpu) {
  return gpu.visible_bytes.value_or(std::llround(visible_share * static_cast<double>(gpu.memory_bytes)));
}

double activation_bytes(const Llm& llm, const Deployment& deployment, const KvOverhead& overhead,
                        const KvBudgetOptions& options) {
  const auto hidden = static_cast<double>(llm.hidden_size);
  double widest = 0;
  for (const LlmLayer& layer : llm.layers) {
    widest = std::max({widest, feed_forward_width(layer.feed_forward, hidden, deployment),
                       attention_width(layer.attention, deployment)});
  }
  // The residual and its normalised copy live beside what a part computes.
  const double tokens = activation_element * static_cast<double>(options.token_budget) * (2 * hidden + widest);
  return tokens +
         overhead.logit_bytes * static_cast<double>(options.max_sequences) * static_cast<double>(llm.vocabulary);
}

KvBudget kv_budget(const Llm& llm, const Gpu& gpu, const KvOverhead& overhead, const Deployment& deployment,
                   const KvBudgetOptions& options) {
  check_options(options, overhead);
  const Deployment d = checked(llm, deployment);
  if (!(kv_bytes_per_token(llm, d) > 0)) {
    throw Error(ErrorCode::unsupported, "no layer of this model keeps tokens, so there is no KV cache to size",
                {.file = {}, .dataset = {}, .parameter = "model", .value = llm.name});
  }
  KvBudget budget = smallest_budget(llm, gpu, overhead, d, options);
  if (budget.blocks > 0) return budget;
  const std::int64_t missing = budget.bytes_per_token * options.block_tokens - budget.kv_bytes;
  throw Error(
      ErrorCode::out_of_memory,
      fmt::format("does not fit on {} with {} at a memory share of {}: {} bytes ({:.2f} GB) are missing per GPU "
                  "for one block of {} tokens; {}{}",
                  gpu.name, describe(llm, d), options.memory_share, missing, static_cast<double>(missing) / 1e9,
                  options.block_tokens, what_would_fit(llm, gpu, overhead, d, options),
                  smaller_type_that_fits(llm, gpu, overhead, d, options)),
      {.file = {}, .dataset = {}, .parameter = "model", .value = llm.name});
}

}  // namespace evictsim::models
