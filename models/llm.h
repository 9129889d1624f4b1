#pragma once
/// \file
/// Descriptions of large language models: what a model's config says about sizes, and the parameters, bytes and FLOPs
/// that follow from it. Formulas and the JSON format: docs/models.md. Units are in the names.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::models {

/// How a layer's attention looks back, which decides what it keeps.
enum class AttentionKind : std::uint8_t {
  full,     ///< every earlier token, keys and values per KV head
  sliding,  ///< the last `window` tokens, keys and values per KV head
  latent,   ///< every earlier token, one compressed vector for all heads (MLA, arXiv:2405.04434)
  linear,   ///< a state of constant size (gated delta rule, arXiv:2412.06464)
};

/// How an element is stored. Block formats carry scales (bytes_of).
enum class ElementType : std::uint8_t {
  f32,
  bf16,
  f16,
  fp8,      ///< scales per tensor, channel or 128 x 128 block: less than 0.1 %, not counted
  int8,     ///< scales per channel, not counted
  nvfp4,    ///< 16 elements share an fp8 scale: 0.5625 bytes
  mxfp4,    ///< 32 elements share an 8-bit exponent: 0.53125 bytes
  int4,     ///< 128 elements share an f16 scale and a 4-bit zero (AWQ, GPTQ): 0.51953125 bytes
  int4_32,  ///< 32 elements share a bf16 scale: 0.5625 bytes
};

/// Bytes of one element, its part of the scales included.
double bytes_of(ElementType type);
/// "bf16" and so on. fp4 is read as nvfp4.
const char* to_string(ElementType type);
/// Throws Error (unknown_name, with `parameter`), which lists the types.
ElementType element_type(const std::string& name, const std::string& parameter);
const char* to_string(AttentionKind kind);

/// Attention of a layer. Fields that a kind does not have are 0.
struct LayerAttention {
  AttentionKind kind = AttentionKind::full;
  int query_heads = 0;           ///< linear: heads of queries and keys
  int kv_heads = 0;              ///< linear: heads of values; latent: as query_heads
  int head_dim = 0;              ///< of a query and a key; latent: without the rotated part, which is rope_dim
  int value_head_dim = 0;        ///< of a value
  std::int64_t window = 0;       ///< sliding: tokens read, the newest one included
  int latent_rank = 0;           ///< latent: compressed keys and values of a token
  int rope_dim = 0;              ///< latent: rotated part of the key, shared by all heads
  int query_rank = 0;            ///< latent: compressed queries; 0: queries are projected directly
  int index_heads = 0;           ///< latent: heads of the indexer of sparse attention; 0: none (arXiv:2512.02556)
  int index_dim = 0;             ///< of an indexer head, and of its one key per token
  std::int64_t index_top_k = 0;  ///< tokens that attention then reads
  int convolution_width = 0;     ///< linear: taps of the convolution before the heads
  bool output_gate = false;      ///< full, sliding: as many gates as query outputs, from the query projection
  bool query_key_value_bias = false, output_bias = false;
  std::int64_t query_key_norm = 0;  ///< numbers in the norms of queries and keys
  bool sinks = false;               ///< one learned logit per query head
  bool operator==(const LayerAttention&) const = default;
};

/// Feed-forward part of a layer: dense if `experts` is 0, else a router over experts.
struct LayerFeedForward {
  std::int64_t intermediate = 0;  ///< dense: inner width
  int experts = 0;                ///< routed
  int experts_per_token = 0;
  std::int64_t expert_intermediate = 0;  ///< inner width of one
  std::int64_t shared_intermediate = 0;  ///< inner width of all shared experts together; 0: none
  bool shared_gate = false;              ///< a gate of hidden_size numbers on the shared experts
  bool router_bias = false;              ///< one number per expert
  bool gated = true;                     ///< three matrices (SwiGLU); else two
  bool bias = false;                     ///< on every matrix
  bool operator==(const LayerFeedForward&) const = default;
};

struct LlmLayer {
  LayerAttention attention;
  LayerFeedForward feed_forward;
  bool operator==(const LlmLayer&) const = default;
};

/// Stored types of the weights. What is not named stays in bf16: embedding, output head, norms, router, biases.
struct WeightTypes {
  ElementType attention = ElementType::bf16;     ///< projections
  ElementType feed_forward = ElementType::bf16;  ///< dense feed-forward and shared experts
  ElementType experts = ElementType::bf16;       ///< routed
  bool operator==(const WeightTypes&) const = default;
};

struct Llm {
  std::string name;                            ///< short, as in --model
  std::vector<std::string> huggingface_names;  ///< repositories with these sizes, "owner/name"
  std::vector<std::string> sources;            ///< where the sizes come from; at least one
  std::int64_t hidden_size = 0;
  std::int64_t vocabulary = 0;
  std::int64_t learned_positions = 0;  ///< rows of a learned position embedding; 0: rotary
  std::int64_t longest_context = 0;    ///< tokens, as the config promises; 0: not known
  bool tied_embeddings = false;        ///< the output head is the embedding
  int norms_per_layer = 2;             ///< of hidden_size; besides those inside attention
  bool norm_bias = false;
  WeightTypes weights;  ///< as published
  std::vector<LlmLayer> layers;
};

/// Parameters by part. Biases count to their matrix, position embeddings to `embedding`.
template <typename Number>
struct ModelParts {
  Number attention = 0;  ///< projections, indexer, convolution
  Number dense = 0;      ///< dense feed-forward
  Number routed_experts = 0;
  Number shared_experts = 0;  ///< with their gate
  Number router = 0;
  Number norms = 0;
  Number embedding = 0;
  Number output_head = 0;  ///< 0 if tied
  [[nodiscard]] Number total() const {
    return attention + dense + routed_experts + shared_experts + router + norms + embedding + output_head;
  }
  ModelParts& operator+=(const ModelParts& more) {
    attention += more.attention;
    dense += more.dense;
    routed_experts += more.routed_experts;
    shared_experts += more.shared_experts;
    router += more.router;
    norms += more.norms;
    embedding += more.embedding;
    output_head += more.output_head;
    return *this;
  }
  bool operator==(const ModelParts&) const = default;
};
using ParameterCount = ModelParts<std::int64_t>;

/// Whether any layer routes tokens to experts.
bool has_experts(const Llm& llm);

/// Of one layer, all experts.
ParameterCount parameters(const Llm& llm, const LlmLayer& layer);
/// Of the whole model.
ParameterCount parameters(const Llm& llm);
/// That take part in one token's computation: `experts_per_token` of the routed experts, no row of the embedding, and
/// the output head even if it is tied.
ParameterCount active_parameters(const Llm& llm);

/// Different experts that a batch of `tokens` touches in a layer, on average when every token draws its experts
/// uniformly: E (1 - (1 - k/E)^n). 0 for a dense layer.
double expected_experts(const LayerFeedForward& feed_forward, double tokens);

/// FLOPs of a token's matrix products, two per active parameter that is multiplied (no norms); without the output
/// head, which only sampled tokens pay: see output_head_flops.
double projection_flops_per_token(const Llm& llm);
double projection_flops_per_token(const Llm& llm, const LlmLayer& layer);
double output_head_flops(const Llm& llm);
/// FLOPs of one query token with one key in a layer, all query heads: scores and weighted values. Latent attention has
/// two forms: `absorbed` works on the compressed vectors (decode), the other expands them (prefill). 0 for linear.
double attention_flops_per_pair(const LayerAttention& attention, bool absorbed);
/// FLOPs per token of a linear layer's state update and read-out; 0 for the others.
double linear_state_flops_per_token(const LayerAttention& attention);

/// Elements that a layer stores per token while it is within the window: keys and values of all KV heads; latent: the
/// compressed vector, its rotated key and the indexer's key; linear: 0.
std::int64_t kv_elements_per_token(const LayerAttention& attention);
/// Tokens of a sequence of `context` that a layer holds, and that a decode step reads (fewer with an indexer: its keys
/// are all read, so the mean by elements).
std::int64_t entries_held(const LayerAttention& attention, std::int64_t context);
double entries_read(const LayerAttention& attention, std::int64_t context);
/// The same as a mean over all layers by elements per token: what models::StepWork counts in. Piecewise linear.
double mean_entries_held(const Llm& llm, std::int64_t context);
double mean_entries_read(const Llm& llm, std::int64_t context);
/// Contexts at which the slope of the two means changes, ascending: windows and top-k.
std::vector<std::int64_t> context_bends(const Llm& llm);
/// Bytes of constant state per sequence (linear layers): recurrence in f32, convolution in bf16. Whole model.
std::int64_t state_bytes_per_sequence(const Llm& llm);
std::int64_t state_bytes_per_sequence(const LayerAttention& attention);

/// Throws Error (invalid_value), which names `file`, the layer and the size, if a size is missing, contradicts another
/// or is beyond what 64-bit counts hold. Both readers end with it.
void check_llm(const Llm& llm, const std::string& file);

/// Reads one description. Throws Error: file_not_found, permission_denied, invalid_value, missing_data, wrong_type,
/// unknown_name (a field or part that does not exist), unsupported_version; each names the file and the field.
Llm read_llm(const std::filesystem::path& file);
/// By the name of a data file (models/data_files.h), by one of `huggingface_names` in them, or by the path of a file:
/// a description or a Hugging Face config.json (models/llm_config.h). Throws Error (unknown_name), which lists names.
Llm find_llm(const std::string& name_or_path);

}  // namespace evictsim::models
