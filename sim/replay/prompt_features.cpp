#include "sim/replay/prompt_features.h"

#include <algorithm>
#include <numeric>
#include <string>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

namespace evictsim::sim {
namespace {

bool holds_rows(const std::vector<std::int32_t>& query_rows, Index first, Index last) {
  const auto begin = std::lower_bound(query_rows.begin(), query_rows.end(), first);
  const auto end = std::lower_bound(query_rows.begin(), query_rows.end(), last);
  return end - begin == last - first;
}

}  // namespace

PromptFeatures make_prompt_features(const LayerData& layer, const policies::Needs& needs) {
  const models::Geometry& geometry = layer.geometry();
  const int group = geometry.group_size();
  const Index prompt = layer.prompt_length();
  PromptFeatures features;
  features.window = std::min(needs.window_queries, prompt);
  if (features.window > 0) {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(features.window));
    std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(prompt - features.window));
    const std::vector<models::EntryRange> visible = layer.group_visibility(rows);
    features.window_attention.resize(static_cast<std::size_t>(geometry.num_kv_heads));
    tbb::parallel_for(0, geometry.num_kv_heads, [&](int kv_head) {
      models::AttentionColumns columns;
      models::attend(layer.keys(kv_head, prompt), layer.group_queries(kv_head, rows), visible, layer.logit_rule(),
                     false, columns);
      features.window_attention[static_cast<std::size_t>(kv_head)] = std::move(columns.probability);
    });
  }
  if (needs.all_queries) {
    features.accumulated.assign(static_cast<std::size_t>(geometry.num_query_heads),
                                std::vector<double>(static_cast<std::size_t>(prompt), 0.0));
    tbb::parallel_for(0, geometry.num_kv_heads, [&](int kv_head) {
      std::vector<MatrixView> queries;
      for (int g = 0; g < group; ++g) {
        // Every prompt row has a query (missing_need), so row i of q is token row i.
        const MatrixView all = layer.queries(kv_head * group + g);
        queries.push_back(models::view(all.data(), prompt, all.cols()));
      }
      models::accumulate_attention(
          layer.keys(kv_head, prompt), queries, layer.positions(), layer.sliding_window(), layer.logit_rule(),
          std::span(features.accumulated)
              .subspan(static_cast<std::size_t>(kv_head * group), static_cast<std::size_t>(group)));
    });
  }
  return features;
}

std::string missing_need(const policies::Needs& needs, const std::vector<std::int32_t>& query_rows, Index prompt_length,
                         Index length) {
  if (needs.all_queries && !holds_rows(query_rows, 0, prompt_length)) return "q of every prompt row";
  const Index window = std::min(needs.window_queries, prompt_length);
  if (!holds_rows(query_rows, prompt_length - window, prompt_length)) {
    return fmt::format("q of the last {} prompt rows", window);
  }
  if (needs.decode_attention && !holds_rows(query_rows, prompt_length, length)) return "q of every decode row";
  return {};
}

}  // namespace evictsim::sim
