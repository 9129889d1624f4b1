#pragma once
/// \file
/// One layer under a policy with a placement: the hot cache, everything else ever seen, and what each row attends.

#include <memory>
#include <optional>
#include <vector>

#include "policies/placement.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/layer_cache.h"

namespace evictsim::sim {

/// What a placement is shown.
class PlacedLayer final : public policies::PlacementView {
 public:
  PlacedLayer(const LayerData& layer, const LayerCache& hot, policies::CutBudget budget);

  /// To be called after every change of the hot cache.
  void refresh();

  [[nodiscard]] const policies::CacheView& hot() const override { return hot_; }
  [[nodiscard]] std::span<const std::int32_t> cold(int head) const override {
    return cold_[static_cast<std::size_t>(head)];
  }
  [[nodiscard]] MatrixView keys(int kv_head) const override { return layer_.keys(kv_head, hot_.seen()); }
  [[nodiscard]] MatrixView values(int kv_head) const override { return layer_.values(kv_head, hot_.seen()); }
  [[nodiscard]] std::span<const float> query(int query_head) const override;
  [[nodiscard]] policies::CutBudget budget() const override { return budget_; }
  [[nodiscard]] int component_bytes() const override { return layer_.component_bytes(); }
  [[nodiscard]] const policies::PacketLayer& packets() const override;
  [[nodiscard]] std::span<const std::int32_t> kept_packet_rows(int query_head) const override;

  /// Makes the packets ready that `ingest` names.
  void prepare_packets(const policies::PacketIngest& ingest, const policies::Budget& budget, RandomKey key);

 private:
  const LayerData& layer_;
  const LayerCache& hot_;
  policies::CutBudget budget_;
  std::vector<std::vector<std::int32_t>> cold_;  ///< [cache head] ascending
  std::optional<policies::PacketLayer> packets_;
  std::vector<std::vector<std::int32_t>> kept_packet_rows_;  ///< [query head]
};

/// One decode row's attention as a placement arranged it.
struct PlacedRow {
  policies::AttendedEntries attended;
  std::vector<MatrixView> keys, values;  ///< [cache head] indexed by token row; may be shorter-lived than the run
  std::vector<MatrixView> extra_keys, extra_values;  ///< [cache head] of entries beyond the sequence
  std::vector<std::span<const float>> queries;       ///< [query head] [d]
};

/// Lets the placement arrange the newest row's attention. Throws Error(policy_failure) when it names rows not seen, out
/// of order, entries beyond the sequence that it does not have, or leaves the newest row out.
PlacedRow attend_placed(policies::Placement& placement, const PlacedLayer& layer, const LayerCache& hot);

/// Writes row `r` of `member` for the query heads of a cache head: softmax over the entries attended, with keys and
/// values as they are attended.
void evaluate_placed(const LayerData& layer, const Tile& tile, Index r, const PlacedRow& placed, std::size_t cache_head,
                     const CacheHead& head, Index member, BlockMetrics& out);

}  // namespace evictsim::sim
