#include "sim/replay/tile.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include <tbb/parallel_for.h>

#include "sim/replay/evaluation.h"

namespace evictsim::sim {
namespace {

constexpr Index tile_bytes = Index{256} << 20;
constexpr Index most_rows = 256;

/// The `count` entries with the largest mass - own[j], older first among equals. `ranked` holds all entries by falling
/// mass: since own >= 0, entries far down that order can only matter if the candidates' worst falls below them.
void largest_outside_row(std::span<const double> mass, std::span<const std::int32_t> ranked,
                         const std::function<float(std::int32_t)>& own, Index count,
                         std::vector<UsefulSets::Entry>& out) {
  const auto total = static_cast<Index>(ranked.size());
  count = std::min(count, total);
  struct Candidate {
    double rest;
    std::int32_t row;
  };
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.rest != b.rest ? a.rest > b.rest : a.row < b.row;
  };
  std::vector<Candidate> candidates;
  for (Index taken = 0, wanted = 4 * count; taken < total; wanted *= 4) {
    for (; taken < std::min(wanted, total); ++taken) {
      const std::int32_t row = ranked[static_cast<std::size_t>(taken)];
      candidates.push_back({mass[static_cast<std::size_t>(row)] - static_cast<double>(own(row)), row});
    }
    std::nth_element(candidates.begin(), candidates.begin() + (count - 1), candidates.end(), better);
    const double worst = candidates[static_cast<std::size_t>(count - 1)].rest;
    if (taken < total && mass[static_cast<std::size_t>(ranked[static_cast<std::size_t>(taken)])] < worst) break;
  }
  std::sort(candidates.begin(), candidates.begin() + count,
            [](const Candidate& a, const Candidate& b) { return a.row < b.row; });
  for (Index i = 0; i < count; ++i) {
    const std::int32_t row = candidates[static_cast<std::size_t>(i)].row;
    out.push_back({row, own(row)});
  }
}

std::vector<std::int32_t> evidence_rows(const traces::SequenceInfo& sequence) {
  std::vector<std::int32_t> rows;
  const auto spans = sequence.spans.find("evidence");
  if (spans == sequence.spans.end()) return rows;
  for (const traces::Span& span : spans->second) {
    for (std::int32_t row = span.first; row < span.last; ++row) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

}  // namespace

Index tile_rows(const LayerData& layer) {
  const Index bytes_per_row = layer.length() * layer.geometry().num_query_heads * static_cast<Index>(2 * sizeof(float));
  return std::clamp<Index>(tile_bytes / bytes_per_row, 1, most_rows);
}

Tile make_tile(const LayerData& layer, std::span<const std::int32_t> rows, bool with_by_query,
               const models::OutputProjection* projection) {
  const models::Geometry& geometry = layer.geometry();
  const int group = geometry.group_size();
  const Index dim = geometry.head_dim;
  Tile tile;
  tile.rows = rows;
  tile.entries = rows.back() + 1;
  tile.classes = TokenClasses(static_cast<std::int32_t>(layer.prompt_length()));
  const Index count = tile.size();
  tile.heads.resize(static_cast<std::size_t>(geometry.num_kv_heads));
  if (with_by_query) tile.by_query.resize(tile.heads.size());
  tile.decoded.resize(tile.heads.size());
  tile.decoded_mass.resize(tile.heads.size());
  tile.output.resize(count, geometry.num_query_heads * dim);
  tile.entropy.resize(count, geometry.num_query_heads);
  const std::vector<models::EntryRange> visible = layer.group_visibility(rows);
  tbb::parallel_for(0, geometry.num_kv_heads, [&](int kv_head) {
    const auto at = static_cast<std::size_t>(kv_head);
    models::AttentionColumns& columns = tile.heads[at];
    models::attend(layer.keys(kv_head, tile.entries), layer.group_queries(kv_head, rows), visible, layer.logit_rule(),
                   true, columns);
    if (with_by_query) tile.by_query[at] = columns.probability.transpose();
    FullAttention all = attend_all(columns, layer.values(kv_head, tile.entries), layer.prompt_length());
    tile.decoded[at] = std::move(all.decoded);
    tile.decoded_mass[at] = tile.decoded[at].mass;
    for (int g = 0; g < group; ++g) {
      for (Index r = 0; r < count; ++r) {
        const Index column = g * count + r;
        tile.output.block(r, (kv_head * group + g) * dim, 1, dim) = all.output.row(column);
        tile.entropy(r, kv_head * group + g) = static_cast<float>(all.entropy[column]);
      }
    }
  });
  if (projection != nullptr) {
    tile.output_squared.resize(static_cast<std::size_t>(count));
    projection->output_squared(tile.output, tile.output_squared);
  }
  return tile;
}

void add_future_mass(const LayerData& layer, const Tile& tile, std::vector<std::vector<double>>& mass) {
  const int group = layer.geometry().group_size();
  const Index count = tile.size();
  for (int kv_head = 0; kv_head < layer.geometry().num_kv_heads; ++kv_head) {
    const Matrix& probability = tile.heads[static_cast<std::size_t>(kv_head)].probability;
    for (Index j = 0; j < layer.prompt_length(); ++j) {
      for (int g = 0; g < group; ++g) {
        mass[static_cast<std::size_t>(kv_head * group + g)][static_cast<std::size_t>(j)] +=
            models::sum_in_double(&probability(j, g * count), count);
      }
    }
  }
}

std::vector<std::vector<double>> future_mass_of(const LayerData& layer) {
  std::vector<std::vector<double>> mass(static_cast<std::size_t>(layer.geometry().num_query_heads),
                                        std::vector<double>(static_cast<std::size_t>(layer.prompt_length()), 0.0));
  const auto rows = layer.decode_rows();
  const auto block = static_cast<std::size_t>(tile_rows(layer));
  for (std::size_t first = 0; first < rows.size(); first += block) {
    add_future_mass(layer, make_tile(layer, rows.subspan(first, std::min(block, rows.size() - first)), false, nullptr),
                    mass);
  }
  return mass;
}

void find_useful_sets(const LayerData& layer, const std::vector<std::vector<double>>& mass, Index decode_rows,
                      Index count, Tile& tile) {
  const models::Geometry& geometry = layer.geometry();
  const int group = geometry.group_size();
  const Index rows = tile.size();
  tile.useful = UsefulSets(geometry.num_query_heads, rows);
  tile.dilution = Matrix::Constant(rows, geometry.num_query_heads, std::numeric_limits<float>::quiet_NaN());
  const std::vector<std::int32_t> evidence = evidence_rows(layer.sequence());
  if (evidence.empty() && decode_rows < 2) return;  // nothing outside the row itself to rank by
  tbb::parallel_for(0, geometry.num_query_heads, [&](int query_head) {
    const Matrix& probability = tile.heads[static_cast<std::size_t>(query_head / group)].probability;
    const auto& head_mass = mass[static_cast<std::size_t>(query_head)];
    std::vector<std::int32_t> ranked;
    if (evidence.empty()) {
      ranked.resize(head_mass.size());
      std::iota(ranked.begin(), ranked.end(), 0);
      std::stable_sort(ranked.begin(), ranked.end(), [&](std::int32_t a, std::int32_t b) {
        return head_mass[static_cast<std::size_t>(a)] > head_mass[static_cast<std::size_t>(b)];
      });
    }
    for (Index r = 0; r < rows; ++r) {
      const Index column = (query_head % group) * rows + r;
      auto& set = tile.useful.at(query_head, r);
      if (evidence.empty()) {
        largest_outside_row(
            head_mass, ranked, [&](std::int32_t row) { return probability(row, column); }, count, set);
      } else {
        for (const std::int32_t row : evidence) {
          if (row < tile.entries) set.push_back({row, probability(row, column)});
        }
      }
      double useful = 0;
      for (const UsefulSets::Entry& entry : set) useful += static_cast<double>(entry.mass);
      tile.dilution(r, query_head) = static_cast<float>(1.0 - useful);
    }
  });
}

}  // namespace evictsim::sim
