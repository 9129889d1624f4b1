#include "models/step_time.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "models/deployment.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

constexpr double femtoseconds_per_second = 1e15;
constexpr double longest_step_seconds = 9000;
/// Of a number that travels between GPUs: bf16.
constexpr double sent_bytes = 2;

[[noreturn]] void lacks(const Gpu& gpu, const char* field) {
  throw Error(ErrorCode::missing_data, fmt::format("the description of GPU '{}' lacks this rate", gpu.name),
              {.file = {}, .dataset = field, .parameter = {}, .value = {}});
}

/// Arithmetic rate for weights of that type. Types that a GPU does not compute in are unpacked to bf16.
double arithmetic_rate(const Gpu& gpu, ElementType type) {
  const auto rate = [&](const char* name) {
    const auto found = gpu.flops_per_second.find(name);
    return found == gpu.flops_per_second.end() ? 0.0 : found->second;
  };
  double own = 0;
  switch (type) {
    case ElementType::f32:
      own = rate("tf32");
      break;
    case ElementType::f16:
      own = rate("f16");
      break;
    case ElementType::fp8:
      own = rate("fp8");
      break;
    case ElementType::int8:
      own = rate("int8");
      break;
    case ElementType::nvfp4:
    case ElementType::mxfp4:
      own = rate("fp4");
      break;
    default:
      break;
  }
  if (own > 0) return own;
  if (rate("bf16") > 0) return rate("bf16");
  lacks(gpu, "flops_per_second.bf16");
}

/// Between GPUs: their own link, or through the host where they have none.
double link_rate(const Gpu& gpu) {
  if (gpu.peer) return gpu.peer->bytes_per_second;
  if (gpu.device_to_host) return gpu.device_to_host->bytes_per_second;
  lacks(gpu, "peer");
}

void add_experts(std::vector<StepShape::Experts>& all, const LayerFeedForward& feed_forward, double read_seconds) {
  const double experts = feed_forward.experts;
  const double per_token = feed_forward.experts_per_token;
  for (StepShape::Experts& alike : all) {
    if (alike.experts == experts && alike.per_token == per_token) {
      alike.read_seconds += read_seconds;
      return;
    }
  }
  all.push_back({experts, per_token, read_seconds});
}

void add_pairs(std::vector<StepShape::Pairs>& all, double window, double seconds) {
  for (StepShape::Pairs& alike : all) {
    if (alike.window == window) {
      alike.seconds += seconds;
      return;
    }
  }
  all.push_back({window, seconds});
}

double window_of(const LayerAttention& attention) {
  if (attention.kind == AttentionKind::sliding) return static_cast<double>(attention.window);
  if (attention.index_heads > 0) return static_cast<double>(attention.index_top_k);
  return 0;
}

MeanStepWork without_entries(const StepWork& work) {
  const auto real = [](std::int64_t count) { return static_cast<double>(count); };
  return {real(work.decode_sequences),  0,
          real(work.prefill_sequences), real(work.prefill_tokens),
          real(work.prefill_context),   real(work.prefill_pairs)};
}

}  // namespace

StepShape::StepShape(const Llm& llm, const Gpu& gpu, const Deployment& requested) {
  const Deployment deployment = checked(llm, requested);
  const WeightTypes types = weight_types(llm, deployment);
  const double memory_rate = gpu.memory_bytes_per_second;
  const double bf16_rate = arithmetic_rate(gpu, ElementType::bf16);
  const double tensor = deployment.tensor_parallel;
  const double copies = deployment.attention_data_parallel;
  const double gpus = deployment.gpus_per_stage();
  const auto hidden = static_cast<double>(llm.hidden_size);
  attention_copies = copies;
  experts_spread = deployment.moe_expert_parallel > 1;
  stages = deployment.pipeline_parallel;

  // Every GPU of an attention copy works on that copy's tokens; experts work on those of all copies.
  const auto arithmetic = [&](double bytes, ElementType type) {
    return 2 * bytes / bytes_of(type) / arithmetic_rate(gpu, type) / copies;
  };
  for (const LlmLayer& layer : llm.layers) {
    const LayerAttention& attention = layer.attention;
    const LayerFeedForward& feed_forward = layer.feed_forward;
    const WeightBytes bytes = weight_bytes_per_gpu(llm, layer, deployment);
    read_seconds += (bytes.attention + bytes.dense + bytes.shared_experts + bytes.router + bytes.norms) / memory_rate;
    token_seconds += arithmetic(bytes.attention, types.attention) +
                     arithmetic(bytes.dense + bytes.shared_experts, types.feed_forward) +
                     arithmetic(bytes.router, ElementType::bf16) +
                     linear_state_flops_per_token(attention) / tensor / copies / bf16_rate;
    layers += 1;
    if (feed_forward.experts > 0) {
      expert_layers += 1;
      add_experts(experts, feed_forward, bytes.routed_experts / memory_rate);
      const double active = static_cast<double>(parameters(llm, layer).routed_experts) *
                            feed_forward.experts_per_token / feed_forward.experts;
      expert_token_seconds += 2 * active / gpus / arithmetic_rate(gpu, types.experts);
    }
    // One reduction behind attention, one behind the feed-forward part (or dispatch and combine of experts).
    const double attention_peers = tensor;
    const double feed_forward_peers = feed_forward.experts > 0 ? gpus : tensor;
    for (const double peers : {attention_peers, feed_forward_peers}) {
      if (peers < 2) continue;
      collectives += 1;
      collective_doublings += std::log2(peers);
      collective_token_seconds +=
          2 * (peers - 1) / peers * hidden * sent_bytes / link_rate(gpu) / (peers == tensor ? copies : 1);
    }
    entry_read_seconds += kv_bytes_per_token(attention, deployment) / memory_rate / copies;
    entry_arithmetic_seconds += attention_flops_per_pair(attention, true) / tensor / bf16_rate / copies;
    state_seconds += 2 * static_cast<double>(state_bytes_per_sequence(attention)) / tensor / memory_rate / copies;
    const double pair_seconds = attention_flops_per_pair(attention, false) / tensor / bf16_rate / copies;
    if (pair_seconds > 0) add_pairs(pairs, window_of(attention), pair_seconds);
  }
  const double head_flops = output_head_flops(llm);
  read_seconds += head_flops / 2 * bytes_of(ElementType::bf16) / tensor / memory_rate;
  sampled_token_seconds = head_flops / tensor / copies / bf16_rate;
  if (stages > 1) {
    collectives += stages - 1;
    collective_token_seconds += (stages - 1) * hidden * sent_bytes / link_rate(gpu);
  }
}

/// The terms of a step but for decode attention, which is linear in its entries by itself.
struct StepTime::Sums {
  static constexpr std::array<const char*, 8> names = {"step",
                                                       "kernel starts",
                                                       "sequences",
                                                       "prompt chunks",
                                                       "weights and matrix products",
                                                       "prefill attention",
                                                       "linear-attention states",
                                                       "collectives"};
  std::array<double, 8> seconds{};
};

StepTime::StepTime(const Llm& llm, const Gpu& gpu, const Engine& engine, const Deployment& deployment)
    : StepTime(StepShape(llm, gpu, deployment),
               adjusted_constants(engine, gpu.name, llm.name, precision_name(llm, deployment))) {}

StepTime::StepTime(StepShape shape, const EngineConstants& constants)
    : shape_(std::move(shape)),
      constants_(constants),
      entry_seconds_(std::max(shape_.entry_read_seconds, shape_.entry_arithmetic_seconds) /
                     constants.kv_bandwidth_share),
      per_decode_entry_(std::llround(entry_seconds_ * femtoseconds_per_second)) {}

StepTime::Sums StepTime::sums(const MeanStepWork& work) const {
  const EngineConstants& c = constants_;
  Sums sums;
  const double tokens = work.decode_sequences + work.prefill_tokens;
  if (tokens <= 0) return sums;
  double read = shape_.read_seconds;
  const double drawing = tokens * c.routing_spread * (shape_.experts_spread ? c.expert_parallel_spread : 1);
  for (const StepShape::Experts& alike : shape_.experts) {
    // The share of experts that a batch touches when every token draws its own evenly: 1 - (1 - k/E)^n.
    read +=
        alike.read_seconds * -std::expm1(drawing * std::log1p(-std::min(alike.per_token / alike.experts, 1 - 1e-9)));
  }
  read /= c.weight_bandwidth_share;
  // A prompt's chunk is on one copy of attention, and the others wait for it: the shape spreads tokens evenly.
  const double busy_copies = std::clamp(work.prefill_sequences, 1.0, shape_.attention_copies);
  const double unevenness = shape_.attention_copies / busy_copies;
  const double arithmetic = ((work.decode_sequences + work.prefill_tokens * unevenness) * shape_.token_seconds +
                             tokens * shape_.expert_token_seconds) /
                            c.gemm_flops_share;
  const double sampled = work.decode_sequences + work.prefill_sequences;
  const double products =
      std::pow(std::pow(read, c.gemm_overlap) + std::pow(arithmetic, c.gemm_overlap), 1 / c.gemm_overlap);
  double prefill_attention = 0;
  for (const StepShape::Pairs& alike : shape_.pairs) {
    const double seen =
        alike.window > 0 ? std::min(work.prefill_pairs, work.prefill_tokens * alike.window) : work.prefill_pairs;
    prefill_attention += seen * alike.seconds / c.attention_flops_share;
  }
  prefill_attention += work.prefill_context * shape_.entry_read_seconds / c.kv_bandwidth_share;
  prefill_attention *= unevenness;
  sums.seconds = {
      c.step_seconds,
      shape_.layers * c.layer_seconds + shape_.expert_layers * c.expert_layer_seconds,
      work.decode_sequences / shape_.attention_copies * c.sequence_seconds,
      work.prefill_sequences / busy_copies * c.chunk_seconds,
      products + sampled * shape_.sampled_token_seconds / c.gemm_flops_share,
      prefill_attention,
      work.decode_sequences * shape_.state_seconds / c.kv_bandwidth_share,
      shape_.collectives * c.collective_seconds + shape_.collective_doublings * c.collective_doubling_seconds +
          tokens * shape_.collective_token_seconds / c.link_bandwidth_share,
  };
  return sums;
}

double StepTime::seconds(const MeanStepWork& work) const {
  double total = work.decode_entries * entry_seconds_;
  for (const double term : sums(work).seconds) total += term;
  return total;
}

Femtoseconds StepTime::of(const StepWork& work) const {
  const std::array<std::int64_t, 6> counts = {work.decode_sequences, work.decode_entries,  work.prefill_sequences,
                                              work.prefill_tokens,   work.prefill_context, work.prefill_pairs};
  for (const std::int64_t count : counts) {
    if (count < 0) {
      throw Error(ErrorCode::invalid_argument, "counts of a step must not be negative",
                  {.file = {}, .dataset = {}, .parameter = "StepWork", .value = std::to_string(count)});
    }
  }
  const double constant = seconds(without_entries(work));
  const double total = constant + static_cast<double>(work.decode_entries) * entry_seconds_;
  if (!(total < longest_step_seconds)) {
    throw Error(ErrorCode::invalid_argument, fmt::format("a step must be shorter than {} s", longest_step_seconds),
                {.file = {}, .dataset = {}, .parameter = "StepWork", .value = fmt::format("{:.0f} s", total)});
  }
  return std::llround(constant * femtoseconds_per_second) + per_decode_entry_ * work.decode_entries;
}

std::vector<StepTerm> StepTime::terms(const StepWork& work) const {
  const Sums parts = sums(without_entries(work));
  std::vector<StepTerm> terms;
  for (std::size_t i = 0; i < parts.seconds.size(); ++i) terms.push_back({Sums::names[i], parts.seconds[i]});
  terms.push_back({"decode attention", static_cast<double>(work.decode_entries) * entry_seconds_});
  return terms;
}

Femtoseconds StepTime::per_request() const {
  return std::llround(constants_.request_seconds * femtoseconds_per_second);
}

}  // namespace evictsim::models
