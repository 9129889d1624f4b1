#include "sim/replay/placed_layer.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "sim/replay/packet_cut.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

Error broken(const LayerCache& hot, int query_head, const std::string& what) {
  return {ErrorCode::policy_failure,
          "a placement must name rows seen, ascending, the newest among them; layer " + std::to_string(hot.layer()) +
              ", query head " + std::to_string(query_head),
          {.parameter = "attended", .value = what}};
}

}  // namespace

PlacedLayer::PlacedLayer(const LayerData& layer, const LayerCache& hot, policies::CutBudget budget)
    : layer_(layer), hot_(hot), budget_(budget), cold_(static_cast<std::size_t>(hot.heads())) {
  refresh();
}

void PlacedLayer::refresh() {
  for (int head = 0; head < hot_.heads(); ++head) {
    std::vector<std::int32_t>& cold = cold_[static_cast<std::size_t>(head)];
    cold.clear();
    const auto hot = hot_.entries(head);
    auto next = hot.begin();
    for (std::int32_t row = 0; row < static_cast<std::int32_t>(hot_.seen()); ++row) {
      if (next != hot.end() && *next == row) {
        ++next;
      } else {
        cold.push_back(row);
      }
    }
  }
}

std::span<const float> PlacedLayer::query(int query_head) const {
  const Index place = layer_.query_place(hot_.seen() - 1);
  if (place < 0) {
    throw Error(ErrorCode::policy_failure, "the newest row has no query",
                {.parameter = "row", .value = std::to_string(hot_.seen() - 1)});
  }
  const MatrixView queries = layer_.queries(query_head);
  return {queries.row(place).data(), static_cast<std::size_t>(queries.cols())};
}

const policies::PacketLayer& PlacedLayer::packets() const { return packets_ ? *packets_ : PlacementView::packets(); }

std::span<const std::int32_t> PlacedLayer::kept_packet_rows(int query_head) const {
  return packets_ ? kept_packet_rows_[static_cast<std::size_t>(query_head)]
                  : PlacementView::kept_packet_rows(query_head);
}

void PlacedLayer::prepare_packets(const policies::PacketIngest& ingest, const policies::Budget& budget, RandomKey key) {
  const auto set = static_cast<std::size_t>(ingest.set);
  const LayerSide& side = layer_.side();
  if (side.sequence == nullptr || !side.sequence->packets[set] || side.packets[set].k.empty()) {
    throw Error(ErrorCode::policy_failure, "packets must be declared by Needs::packets");
  }
  packets_.emplace(layer_.geometry(), *side.sequence->packets[set], side.packets[set]);
  kept_packet_rows_ = cut_packets(layer_, *packets_, ingest, budget, key);
}

PlacedRow attend_placed(policies::Placement& placement, const PlacedLayer& layer, const LayerCache& hot) {
  PlacedRow placed;
  const int query_heads = hot.geometry().num_query_heads;
  for (int query_head = 0; query_head < query_heads; ++query_head) {
    const auto entries = hot.entries(hot.head_of(query_head));
    placed.attended.rows.emplace_back(entries.begin(), entries.end());
  }
  placement.attend(layer, placed.attended);
  if (std::ssize(placed.attended.rows) != query_heads) throw broken(hot, 0, "another number of query heads");
  for (int query_head = 0; query_head < query_heads; ++query_head) {
    const auto& rows = placed.attended.rows[static_cast<std::size_t>(query_head)];
    if (rows.empty() || rows.back() != hot.seen() - 1) throw broken(hot, query_head, "the newest row is missing");
    if (rows.front() < 0 || std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) != rows.end()) {
      throw broken(hot, query_head, "rows out of order");
    }
    const std::span<const float> query = placement.attended_query(layer, query_head);
    if (std::ssize(query) != hot.geometry().head_dim) throw broken(hot, query_head, "a query of another width");
    placed.queries.push_back(query);
  }
  placed.attended.extra.resize(static_cast<std::size_t>(query_heads));
  for (int head = 0; head < hot.heads(); ++head) {
    placed.keys.push_back(placement.attended_keys(layer, head));
    placed.values.push_back(placement.attended_values(layer, head));
    if (placed.keys.back().rows() < hot.seen() || placed.values.back().rows() < hot.seen()) {
      throw broken(hot, hot.query_heads(head).first, "keys or values of too few rows");
    }
    placed.extra_keys.push_back(placement.extra_keys(layer, head));
    placed.extra_values.push_back(placement.extra_values(layer, head));
    const Index extra = std::min(placed.extra_keys.back().rows(), placed.extra_values.back().rows());
    const policies::QueryHeads queries = hot.query_heads(head);
    for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
      const auto& rows = placed.attended.extra[static_cast<std::size_t>(query_head)];
      if (!std::all_of(rows.begin(), rows.end(), [&](std::int32_t row) { return row >= 0 && row < extra; })) {
        throw broken(hot, query_head, "entries beyond the sequence that are not there");
      }
    }
  }
  return placed;
}

void evaluate_placed(const LayerData& layer, const Tile& tile, Index r, const PlacedRow& placed, std::size_t cache_head,
                     const CacheHead& head, Index member, BlockMetrics& out) {
  const auto& columns = tile.heads[static_cast<std::size_t>(head.kv_head)];
  const Index begin = first_column(layer, tile, head);
  const Index dim = layer.geometry().head_dim;
  const MatrixView& keys = placed.keys[cache_head];
  const MatrixView& values = placed.values[cache_head];
  std::vector<double> weights;
  for (int g = 0; g < head.query_heads; ++g) {
    const int query_head = head.first_query_head + g;
    const auto& rows = placed.attended.rows[static_cast<std::size_t>(query_head)];
    const auto& extra = placed.attended.extra[static_cast<std::size_t>(query_head)];
    const Eigen::Map<const Eigen::RowVectorXf> query(placed.queries[static_cast<std::size_t>(query_head)].data(), dim);
    weights.clear();
    HeadMetrics metrics;
    for (const std::int32_t row : rows) {
      weights.push_back(layer.logit_rule().logit(static_cast<double>(keys.row(row).dot(query))));
      metrics.mass += static_cast<double>(columns.probability(row, begin + g * tile.size() + r));
    }
    for (const std::int32_t row : extra) {
      weights.push_back(
          layer.logit_rule().logit(static_cast<double>(placed.extra_keys[cache_head].row(row).dot(query))));
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    Eigen::RowVectorXd output = Eigen::RowVectorXd::Zero(dim);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      weights[i] /= sum;
      if (weights[i] <= 0) continue;
      metrics.entropy -= weights[i] * std::log(weights[i]);
      output += weights[i] *
                (i < rows.size() ? values.row(rows[i]) : placed.extra_values[cache_head].row(extra[i - rows.size()]))
                    .cast<double>();
    }
    for (const UsefulSets::Entry& useful : tile.useful.at(query_head, r)) {
      const auto found = std::lower_bound(rows.begin(), rows.end(), useful.row);
      if (found != rows.end() && *found == useful.row) {
        metrics.useful_share += weights[static_cast<std::size_t>(found - rows.begin())];
      }
    }
    metrics.classes = split_weights(tile, query_head, r, rows, std::span(weights).first(rows.size()));
    const Eigen::RowVectorXf full = tile.output.block(r, query_head * dim, 1, dim);
    const Eigen::RowVectorXf difference = (output - full.cast<double>()).cast<float>();
    out.difference.block(member * tile.size() + r, query_head * dim, 1, dim) = difference;
    metrics.entropy = std::max(0.0, metrics.entropy);
    metrics.full_norm = full.cast<double>().norm();
    metrics.error_norm = difference.cast<double>().norm();
    out.store(member, tile, r, query_head, metrics);
  }
}

}  // namespace evictsim::sim
