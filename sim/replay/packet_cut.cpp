#include "sim/replay/packet_cut.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "sim/replay/future.h"
#include "sim/replay/prompt_features.h"
#include "sim/replay/selection.h"

namespace evictsim::sim {
namespace {

/// Rows `first` .. of every head, as many as the packet has: [heads, rows, d].
template <typename View>
std::vector<float> rows_of(int heads, Index first, Index rows, const View& view) {
  std::vector<float> values;
  for (int head = 0; head < heads; ++head) {
    const MatrixView all = view(head);
    if (all.rows() == 0) return {};
    values.insert(values.end(), all.data() + first * all.cols(), all.data() + (first + rows) * all.cols());
  }
  return values;
}

traces::SequenceInfo sequence_of(const traces::Packet& packet) {
  traces::SequenceInfo info;
  info.length = info.prompt_length = packet.rows();
  info.positions.resize(static_cast<std::size_t>(info.length));
  std::iota(info.positions.begin(), info.positions.end(), 0);
  info.spans[policies::boundary_span] = {{0, packet.header}, {info.length - packet.trailer, info.length}};
  return info;
}

traces::LayerTensors tensors_of(const LayerData& layer, const policies::PacketLayer& packets, std::size_t packet) {
  const Index first = packets.first_row(packet);
  const Index rows = packets.layout()[packet].rows();
  const int kv_heads = layer.geometry().num_kv_heads;
  traces::LayerTensors tensors;
  tensors.length = static_cast<std::int32_t>(rows);
  tensors.k = rows_of(kv_heads, first, rows, [&](int head) { return packets.keys(head); });
  tensors.v = rows_of(kv_heads, first, rows, [&](int head) { return packets.values(head); });
  tensors.q = rows_of(layer.geometry().num_query_heads, first, rows, [&](int head) { return packets.queries(head); });
  if (tensors.q.empty()) return tensors;
  tensors.q_rows.resize(static_cast<std::size_t>(rows));
  std::iota(tensors.q_rows.begin(), tensors.q_rows.end(), 0);
  return tensors;
}

/// Rows of one packet that stay, [query head].
std::vector<std::vector<std::int32_t>> cut(const LayerData& packet, const policies::Policy& press, double share,
                                           RandomKey key) {
  const PromptFeatures features = make_prompt_features(packet, press.needs);
  const LayerCache cache(packet, features, press.granularity, key);
  const double exact = static_cast<double>(packet.length()) * share;
  const policies::CutBudget budget{.cached = packet.length(),
                                   .entries = std::max<std::int64_t>(1, static_cast<std::int64_t>(exact)),
                                   .exact_entries = exact,
                                   .share = share};
  const FutureMass nothing;
  const Future future(packet, nothing);
  CutScorer scorer(press, future);
  const std::vector<double> measured = press.allocator->measure(cache);
  const std::vector<std::vector<std::int32_t>> kept =
      choose(press, cache, scorer.score(cache, budget), budget, {.measured = measured});
  std::vector<std::vector<std::int32_t>> by_query_head;
  for (int query_head = 0; query_head < packet.geometry().num_query_heads; ++query_head) {
    by_query_head.push_back(kept[static_cast<std::size_t>(cache.head_of(query_head))]);
  }
  return by_query_head;
}

}  // namespace

std::vector<std::vector<std::int32_t>> cut_packets(const LayerData& layer, const policies::PacketLayer& packets,
                                                   const policies::PacketIngest& ingest, const policies::Budget& budget,
                                                   RandomKey key) {
  std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(layer.geometry().num_query_heads));
  const double share =
      budget.in_entries() ? budget.value() / static_cast<double>(layer.prompt_length()) : budget.value();
  if (!ingest.press || (share >= 1 && !ingest.press->allocator->ignores_budget())) {
    for (auto& rows : kept) {
      rows.resize(static_cast<std::size_t>(packets.rows()));
      std::iota(rows.begin(), rows.end(), 0);
    }
    return kept;
  }
  LayerSide side{.sequence = nullptr, .component_bytes = layer.component_bytes()};
  if (ingest.press->needs.output_weights) side.output_weights = layer.side().output_weights;
  const auto slot = static_cast<std::size_t>(
      std::find(layer.geometry().layers.begin(), layer.geometry().layers.end(), layer.layer()) -
      layer.geometry().layers.begin());
  for (std::size_t i = 0; i < packets.layout().size(); ++i) {
    const traces::SequenceInfo info = sequence_of(packets.layout()[i]);
    LayerData packet(layer.geometry(), layer.rope(), info, slot, tensors_of(layer, packets, i), std::move(side));
    // Documents draw numbers of their own.
    const RandomKey own{key.seed + (i + 1) * 0x9e3779b97f4a7c15U, key.sequence};
    const auto stays = cut(packet, *ingest.press, share, own);
    for (std::size_t head = 0; head < kept.size(); ++head) {
      for (const std::int32_t row : stays[head]) {
        kept[head].push_back(static_cast<std::int32_t>(packets.first_row(i)) + row);
      }
    }
    side = std::move(packet).side();
  }
  return kept;
}

}  // namespace evictsim::sim
