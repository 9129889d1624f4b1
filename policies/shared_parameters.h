#pragma once
/// \file
/// Parameters of scorers that presets of the field's names hand on to them, declared once for both.

#include <string>
#include <vector>

#include "policies/parameters.h"

namespace evictsim::policies {

/// Attention sums: the scorer accumulated_attention.
std::vector<ParameterSpec> accumulation_parameters();
/// Attention of a window less the redundancy of keys: the scorer attention_and_redundancy.
std::vector<ParameterSpec> redundancy_parameters();
/// Attention among generated tokens: the scorer generated_attention.
std::vector<ParameterSpec> generated_attention_parameters();

/// Attention of a window times projected values: the scorer laprox_score.
std::vector<ParameterSpec> laprox_score_parameters();
/// Attention of a window times value sizes: the scorer lava_score; and its budgets: the allocator entropy_shares.
std::vector<ParameterSpec> lava_score_parameters();
std::vector<ParameterSpec> entropy_share_parameters();
/// Layers that give up budget: the allocator cosine_clusters.
std::vector<ParameterSpec> squeeze_parameters();
/// Heads that keep first and newest entries only: the allocator streaming_heads.
std::vector<ParameterSpec> streaming_head_parameters();
/// Steps of the residual stream: the scorer hidden_jump.
std::vector<ParameterSpec> hidden_jump_parameters();
/// Channels against the ranges of earlier tokens: the scorer lag_variance.
std::vector<ParameterSpec> lag_variance_parameters();

/// Attention at both ends of the cache: the scorer lazy_layer.
std::vector<ParameterSpec> lazy_layer_parameters();
/// Ada-KV's split filled in two stages: the scorer critical_heads.
std::vector<ParameterSpec> critical_head_parameters();
/// The question's attention: the scorer finch_attention.
std::vector<ParameterSpec> finch_attention_parameters();
/// Chunks of which some keep their best tokens only: the scorer gated_chunks.
std::vector<ParameterSpec> gated_chunk_parameters();
/// Attention while the context is repeated: the scorer repeat_attention.
std::vector<ParameterSpec> repeat_attention_parameters();
/// Attention of a second reading: the scorer second_pass_attention.
std::vector<ParameterSpec> second_pass_parameters();

std::vector<std::string> names_of(const std::vector<ParameterSpec>& specs);
/// `first`, then `second`.
std::vector<ParameterSpec> joined(std::vector<ParameterSpec> first, const std::vector<ParameterSpec>& second);

}  // namespace evictsim::policies
