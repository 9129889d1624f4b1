#pragma once
/// \file
/// The placement part: where does a cut entry go, when does it come back, and in which shape is it attended?
///
/// Without a placement a cut entry is gone. With one, the entries that a policy keeps are the hot cache in HBM, and the
/// placement says what every decode row attends besides: entries recalled from a slower tier, or kept in HBM by a lossy
/// code, or what was merged into the hot ones.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "policies/budget.h"
#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/packet_layer.h"

namespace evictsim::policies {

enum class Tier { hbm, host, disk };
inline constexpr std::size_t tier_count = 3;

/// Bytes by tier, indexed by Tier.
struct TierBytes {
  std::array<double, tier_count> bytes{};
  double& operator[](Tier tier) { return bytes[static_cast<std::size_t>(tier)]; }
  double operator[](Tier tier) const { return bytes[static_cast<std::size_t>(tier)]; }
};

/// What one decode row of one layer moves.
struct StepTraffic {
  TierBytes recalled;       ///< from that tier into HBM
  TierBytes written;        ///< into that tier
  TierBytes scanned;        ///< read where they lie, to search
  std::int64_t hits = 0;    ///< entries chosen for attention that were in HBM
  std::int64_t misses = 0;  ///< entries chosen for attention that had to be recalled
};

/// One layer while it is decoded: the hot cache (CacheView) and everything ever seen. At `Placement::attend` the newest
/// row, seen() - 1, has arrived and is hot.
class PlacementView {
 public:
  virtual ~PlacementView() = default;
  /// The hot cache. Attention that its member functions give is over the hot entries alone.
  [[nodiscard]] virtual const CacheView& hot() const = 0;
  /// Rows seen that are not hot in a cache head, ascending.
  [[nodiscard]] virtual std::span<const std::int32_t> cold(int head) const = 0;
  /// Keys after RoPE and values of all rows seen, [seen, d], as recorded.
  [[nodiscard]] virtual models::MatrixView keys(int kv_head) const = 0;
  [[nodiscard]] virtual models::MatrixView values(int kv_head) const = 0;
  /// The query of the newest row, [d]. Not at `begin` and `cut`.
  [[nodiscard]] virtual std::span<const float> query(int query_head) const = 0;
  /// The point's budget; `cached` is the prompt's length.
  [[nodiscard]] virtual CutBudget budget() const = 0;
  /// Bytes of one stored component of k or v.
  [[nodiscard]] virtual int component_bytes() const = 0;
  /// Documents recorded alone, of the set that `Placement::ingest` names. Throws Error(policy_failure) without one.
  [[nodiscard]] virtual const PacketLayer& packets() const;
  /// Rows of `packets` that ingest left to a query head, ascending.
  [[nodiscard]] virtual std::span<const std::int32_t> kept_packet_rows(int query_head) const;
};

/// What one decode row attends.
struct AttendedEntries {
  /// [query head] token rows, ascending. Filled in with the hot entries of the query head's cache; the newest row must
  /// stay among them.
  std::vector<std::vector<std::int32_t>> rows;
  /// [query head] entries that stand for no token of the sequence, rows of `Placement::extra_keys`; empty: none.
  std::vector<std::vector<std::int32_t>> extra = {};
  StepTraffic traffic;
};

/// One object serves one layer of one sequence under one policy and budget.
class Placement {
 public:
  virtual ~Placement() = default;
  /// Called once, after the prompt's cut.
  virtual void begin(const PlacementView& layer) = 0;
  /// Called after every cut while decoding.
  virtual void cut(const PlacementView& layer) { static_cast<void>(layer); }
  /// Called for every decode row that has a query, before it attends.
  virtual void attend(const PlacementView& layer, AttendedEntries& attended) = 0;
  /// Keys and values as they are attended, [seen or more, d] indexed by token row, for a cache head; the recorded ones
  /// unless the placement changes them. Called after `attend`.
  [[nodiscard]] virtual models::MatrixView attended_keys(const PlacementView& layer, int head) const {
    return layer.keys(layer.hot().geometry().kv_head_of(layer.hot().query_heads(head).first));
  }
  [[nodiscard]] virtual models::MatrixView attended_values(const PlacementView& layer, int head) const {
    return layer.values(layer.hot().geometry().kv_head_of(layer.hot().query_heads(head).first));
  }
  /// Keys and values of the entries beyond the sequence, [entries, d], for a cache head.
  [[nodiscard]] virtual models::MatrixView extra_keys(const PlacementView& layer, int head) const;
  [[nodiscard]] virtual models::MatrixView extra_values(const PlacementView& layer, int head) const;
  /// The query with which the newest row attends, [d]; the recorded one unless the placement changes it.
  [[nodiscard]] virtual std::span<const float> attended_query(const PlacementView& layer, int query_head) const {
    return layer.query(query_head);
  }
  /// How packets are made ready before `begin`; null for placements without packets.
  [[nodiscard]] virtual const PacketIngest* ingest() const { return nullptr; }
  /// Whether rows are attended in another way even where nothing is cut: the placement then works at any budget, 1
  /// included.
  [[nodiscard]] virtual bool changes_whole_cache() const { return false; }
  /// Bytes at rest, codes, digests and records included: after the prompt's cut, or after a decode row and its cut.
  [[nodiscard]] virtual TierBytes stored(const PlacementView& layer) const = 0;
  [[nodiscard]] virtual Needs needs() const { return {}; }

 protected:
  /// Bytes of the exact k and v of `entries` entries of one cache head.
  static double exact_bytes(const PlacementView& layer, Index entries) {
    return 2.0 * static_cast<double>(entries * layer.hot().geometry().head_dim * layer.component_bytes());
  }
};

}  // namespace evictsim::policies
