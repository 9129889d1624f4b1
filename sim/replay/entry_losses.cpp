#include "sim/replay/entry_losses.h"

#include <algorithm>

#include <tbb/parallel_for.h>

#include "models/attention.h"

namespace evictsim::sim {
namespace {

void divide(std::vector<double>& values, double by) {
  for (double& value : values) value /= by;
}

}  // namespace

EntryAttention::EntryAttention(const LayerData& layer)
    : layer_(layer),
      attention_(static_cast<std::size_t>(layer.geometry().num_query_heads),
                 std::vector<double>(static_cast<std::size_t>(layer.length()), 0.0)),
      attended_most_(attention_) {}

void EntryAttention::add(const Tile& tile, const MostAttended& most_attended) {
  const int group = layer_.geometry().group_size();
  const Index rows = tile.size();
  tbb::parallel_for(0, layer_.geometry().num_query_heads, [&](int query_head) {
    const Matrix& probability = tile.heads[static_cast<std::size_t>(query_head / group)].probability;
    const Index begin = (query_head % group) * rows;
    std::vector<double>& attention = attention_[static_cast<std::size_t>(query_head)];
    for (Index j = 0; j < tile.entries; ++j) {
      double& sum = attention[static_cast<std::size_t>(j)];
      for (Index r = 0; r < rows; ++r) sum += static_cast<double>(probability(j, begin + r));
    }
    std::vector<double>& attended_most = attended_most_[static_cast<std::size_t>(query_head)];
    for (Index r = 0; r < rows; ++r) {
      for (const std::int32_t entry : most_attended.at(query_head, r)) ++attended_most[static_cast<std::size_t>(entry)];
    }
  });
  rows_ += rows;
}

void EntryAttention::finish() {
  for (std::vector<double>& values : attention_) divide(values, static_cast<double>(rows_));
  for (std::vector<double>& values : attended_most_) divide(values, static_cast<double>(rows_));
}

LostEntries lost_by(const KeptChain& chain, std::size_t member, std::span<const CacheHead> heads,
                    const EntryAttention& full) {
  LostEntries lost(std::ssize(full.attention().front()));
  for (std::size_t head = 0; head < heads.size(); ++head) {
    const std::vector<std::uint16_t>& level = chain.level[head];
    for (int h = heads[head].first_query_head; h < heads[head].first_query_head + heads[head].query_heads; ++h) {
      const std::vector<double>& attention = full.attention()[static_cast<std::size_t>(h)];
      const std::vector<double>& attended_most = full.attended_most()[static_cast<std::size_t>(h)];
      for (std::size_t entry = 0; entry < level.size(); ++entry) {
        if (level[entry] <= member) continue;
        lost.mass[entry] += attention[entry];
        lost.premature_evictions[entry] += attended_most[entry];
      }
    }
  }
  const auto query_heads = static_cast<double>(full.attention().size());
  divide(lost.mass, query_heads);
  divide(lost.premature_evictions, query_heads);
  return lost;
}

void WalkLosses::add(const Tile& tile, const MostAttended& most_attended, const CacheHead& head,
                     std::span<const std::int32_t> last_row) {
  const Matrix& probability = tile.heads[static_cast<std::size_t>(head.kv_head)].probability;
  const Index begin = first_column(layer_, tile, head);
  for (int h = 0; h < head.query_heads; ++h) {
    for (Index j = 0; j < tile.entries; ++j) {
      const auto entry = static_cast<std::size_t>(j);
      if (last_row[entry] >= tile.rows.back()) continue;
      const auto first = std::upper_bound(tile.rows.begin(), tile.rows.end(), last_row[entry]) - tile.rows.begin();
      for (Index r = first; r < tile.size(); ++r) {
        sums_.mass[entry] += static_cast<double>(probability(j, begin + h * tile.size() + r));
      }
    }
    for (Index r = 0; r < tile.size(); ++r) {
      for (const std::int32_t row : most_attended.at(head.first_query_head + h, r)) {
        const auto entry = static_cast<std::size_t>(row);
        if (last_row[entry] < tile.rows[static_cast<std::size_t>(r)]) ++sums_.premature_evictions[entry];
      }
    }
  }
}

void WalkLosses::add(const Tile& tile, const MostAttended& most_attended, int query_head, Index r,
                     std::span<const std::int32_t> attended) {
  const int group = layer_.geometry().group_size();
  const Matrix& probability = tile.heads[static_cast<std::size_t>(query_head / group)].probability;
  const Index column = (query_head % group) * tile.size() + r;
  auto next = attended.begin();
  for (std::int32_t row = 0; row <= tile.rows[static_cast<std::size_t>(r)]; ++row) {
    if (next != attended.end() && *next == row) {
      ++next;
    } else {
      sums_.mass[static_cast<std::size_t>(row)] += static_cast<double>(probability(row, column));
    }
  }
  for (const std::int32_t row : most_attended.at(query_head, r)) {
    if (!std::binary_search(attended.begin(), attended.end(), row)) {
      ++sums_.premature_evictions[static_cast<std::size_t>(row)];
    }
  }
}

LostEntries WalkLosses::means() const {
  LostEntries means = sums_;
  const auto places = static_cast<double>(std::ssize(layer_.decode_rows()) * layer_.geometry().num_query_heads);
  divide(means.mass, places);
  divide(means.premature_evictions, places);
  return means;
}

}  // namespace evictsim::sim
