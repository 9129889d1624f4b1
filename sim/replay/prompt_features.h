#pragma once
/// \file
/// Attention of prompt rows over the prompt, computed once per layer and shared by every policy and budget.

#include <vector>

#include "models/attention.h"
#include "policies/needs.h"
#include "sim/replay/layer_data.h"

namespace evictsim::sim {

/// What scorers ask for at the prompt's cut; filled for the union of all policies' needs.
struct PromptFeatures {
  Index window = 0;                              ///< the last so many prompt rows
  std::vector<Matrix> window_attention;          ///< [Hkv] entry-major, [n, G * window], columns g * window + r
  std::vector<std::vector<double>> accumulated;  ///< [Hq][n]; empty unless needed
};

PromptFeatures make_prompt_features(const LayerData& layer, const policies::Needs& needs);

/// The dataset and rows that `needs` lacks in a layer with queries at `query_rows`; empty when nothing does.
std::string missing_need(const policies::Needs& needs, const std::vector<std::int32_t>& query_rows, Index prompt_length,
                         Index length);

}  // namespace evictsim::sim
