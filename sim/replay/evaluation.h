#pragma once
/// \file
/// What attention over a part of the cache does to the output: the price of an eviction.

#include <cstdint>
#include <span>
#include <vector>

#include "sim/replay/attention_sums.h"
#include "sim/replay/class_masses.h"
#include "sim/replay/kept_chain.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// Below this share of the full softmax, float32 probabilities have lost digits (or are zero): attention is then
/// computed anew in double, over the resident entries alone.
inline constexpr double smallest_mass = 1e-25;

/// Attention over the full cache, per column of a tile.
struct FullAttention {
  Matrix output;            ///< [C, d]
  Eigen::VectorXd entropy;  ///< [C] nats
  AttentionTotals decoded;  ///< sums over the entries from the first decode row on
};

/// What one query head of one row loses.
struct HeadMetrics {
  double mass = 0;           ///< full-softmax mass of what is attended
  double entropy = 0;        ///< nats
  double useful_share = 0;   ///< of the renormalised attention
  ClassMasses classes = {};  ///< of the renormalised attention
  double full_norm = 0;      ///< |o|
  double error_norm = 0;     ///< |o' - o|
};

/// Attention over every visible entry. Entries decoded so far are taken first, as most policies keep all of them.
FullAttention attend_all(const models::AttentionColumns& columns, const MatrixView& values, Index prompt_length);

/// The query heads that read one cache head, and the KV head whose entries it holds.
struct CacheHead {
  int kv_head = 0;
  int first_query_head = 0;
  int query_heads = 0;
};

/// Where the columns of a cache head's queries begin in the probabilities of its KV head; query_heads * B of them.
Index first_column(const LayerData& layer, const Tile& tile, const CacheHead& head);

/// Results of `members` kept sets for one tile; heads write disjoint columns.
struct BlockMetrics {
  BlockMetrics(Index members, Index rows, const models::Geometry& geometry);
  std::vector<Matrix> retained_mass, output_error, dilution, entropy;  ///< [member] [B, Hq]
  std::vector<ClassMatrices> class_mass;                               ///< [member]
  Matrix difference;  ///< [members * B, Hq * d] renormalised output minus full output

  /// Writes all but `difference` of row `r` of `tile`.
  void store(Index member, const Tile& tile, Index r, int query_head, const HeadMetrics& metrics);
};

/// Every member of a chain in one pass: rows sorted by the member that first keeps them, outputs read off at the cuts.
/// Decode rows are always resident.
void evaluate_chain(const LayerData& layer, const Tile& tile, const KeptChain& chain, std::size_t cache_head,
                    const CacheHead& head, BlockMetrics& out);

/// Entries that each row of the tile attends under a member of a chain, [B * cache heads]: kept prompt rows inside the
/// row's window and every row decoded so far.
std::vector<std::int32_t> attended_counts(const LayerData& layer, const Tile& tile, const KeptChain& chain,
                                          Index member);

/// One point whose residency changes from row to row: entry j is attended by token rows up to `last_row[j]`.
/// Writes `member` of `out`.
void evaluate_resident(const LayerData& layer, const Tile& tile, std::span<const std::int32_t> last_row,
                       const CacheHead& head, Index member, BlockMetrics& out);

}  // namespace evictsim::sim
