#include "sim/replay/lost_sinks.h"

#include <algorithm>

namespace evictsim::sim {

LostSinks::LostSinks(const LayerData& layer, const Tile& tile, Index members)
    : tile_(tile),
      members_(members),
      query_heads_(layer.geometry().num_query_heads),
      group_(layer.geometry().group_size()),
      sinks_(std::min(sink_entries, layer.prompt_length())),
      lost_(static_cast<std::size_t>(members * tile.size() * query_heads_), 0.0) {}

double LostSinks::mass(int query_head, Index r, Index sink) const {
  const models::AttentionColumns& columns = tile_.heads[static_cast<std::size_t>(query_head / group_)];
  return static_cast<double>(columns.probability(sink, query_head % group_ * tile_.size() + r));
}

void LostSinks::evicted_from_chain(std::span<const std::uint16_t> level, const CacheHead& head) {
  for (int h = head.first_query_head; h < head.first_query_head + head.query_heads; ++h) {
    for (Index sink = 0; sink < sinks_; ++sink) {
      const Index evicting = std::min<Index>(level[static_cast<std::size_t>(sink)], members_);
      for (Index member = 0; member < evicting; ++member) {
        for (Index r = 0; r < tile_.size(); ++r) lost(member, r, h) += mass(h, r, sink);
      }
    }
  }
}

void LostSinks::evicted_by_row(Index member, std::span<const std::int32_t> last_row, const CacheHead& head) {
  for (int h = head.first_query_head; h < head.first_query_head + head.query_heads; ++h) {
    for (Index r = 0; r < tile_.size(); ++r) {
      for (Index sink = 0; sink < sinks_; ++sink) {
        const bool evicted = last_row[static_cast<std::size_t>(sink)] < tile_.rows[static_cast<std::size_t>(r)];
        if (evicted) lost(member, r, h) += mass(h, r, sink);
      }
    }
  }
}

void LostSinks::missing(Index member, Index r, int query_head, std::span<const std::int32_t> attended) {
  for (Index sink = 0; sink < sinks_; ++sink) {
    if (std::binary_search(attended.begin(), attended.end(), static_cast<std::int32_t>(sink))) continue;
    lost(member, r, query_head) += mass(query_head, r, sink);
  }
}

std::vector<double> LostSinks::means() const {
  std::vector<double> means(static_cast<std::size_t>(members_ * tile_.size()), 0.0);
  const auto heads = static_cast<std::size_t>(query_heads_);
  for (std::size_t place = 0; place < means.size(); ++place) {
    for (std::size_t head = 0; head < heads; ++head) means[place] += lost_[place * heads + head];
    means[place] /= static_cast<double>(query_heads_);
  }
  return means;
}

}  // namespace evictsim::sim
