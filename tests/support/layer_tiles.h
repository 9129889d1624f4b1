#pragma once
/// \file
/// One layer cut into tiles and heads, as a replay walks it.

#include <algorithm>
#include <vector>

#include "sim/replay/layer_cache.h"
#include "sim/replay/tile.h"

namespace evictsim::test {

/// The cache heads of a layer.
inline std::vector<sim::CacheHead> cache_heads(const sim::LayerData& layer, policies::Granularity granularity) {
  const sim::PromptFeatures none;
  const sim::LayerCache cache(layer, none, granularity, {});
  std::vector<sim::CacheHead> heads;
  for (int head = 0; head < cache.heads(); ++head) heads.push_back(cache.cache_head(head));
  return heads;
}

/// The blocks of decode rows with `block` rows per tile, and the mass that they give to the prompt: [Hq][prompt].
inline std::vector<sim::Tile> attended_tiles(const sim::LayerData& layer, std::size_t block,
                                             std::vector<std::vector<double>>& mass) {
  mass.assign(static_cast<std::size_t>(layer.geometry().num_query_heads),
              std::vector<double>(static_cast<std::size_t>(layer.prompt_length()), 0.0));
  const auto rows = layer.decode_rows();
  std::vector<sim::Tile> tiles;
  for (std::size_t first = 0; first < rows.size(); first += block) {
    tiles.push_back(sim::make_tile(layer, rows.subspan(first, std::min(block, rows.size() - first)), false, nullptr));
    sim::add_future_mass(layer, tiles.back(), mass);
  }
  return tiles;
}

}  // namespace evictsim::test
