#pragma once
/// \file
/// What an oracle would have kept: the entries with the largest future attention, as many as a policy kept, and what
/// the policy lost against it (docs/metrics.md).

#include <cstdint>
#include <span>
#include <vector>

#include "models/matrix.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// Full attention that every prompt entry receives from the decode rows: [Hq][prompt_length].
using FutureMass = std::vector<std::vector<double>>;

/// The oracle of one layer, for policies of one granularity. It ranks what the layer held before the prompt's cut, once
/// per cache head, by the mass over all decode rows and the query heads that read the cache head; older first among
/// equals. Its set of any size is a prefix of that ranking.
class Oracle {
 public:
  /// `held`: prompt rows that the layer held before the cut, the same in every head, ascending.
  Oracle(const LayerData& layer, std::vector<CacheHead> heads, const FutureMass& mass,
         std::span<const std::int32_t> held);

  /// The cache heads that it was made for.
  [[nodiscard]] std::vector<CacheHead> heads() const;

  /// Share of `kept` that the oracle keeps too when it keeps as many in this head; 1 where nothing is kept.
  [[nodiscard]] double overlap(std::size_t head, std::span<const std::int32_t> kept) const;

  /// Announces a cut to `count` entries in a head: `attend` then prepares for it.
  void expect(std::size_t head, std::size_t count);
  /// Takes the attention of a block of decode rows, for every size announced.
  void attend(const Tile& tile);

  /// Per query head of `head` and row of the tile attended last: full attention on the oracle's set minus that on the
  /// policy's of the same size (`regret`), and minus what as many of the rows held, drawn at random, receive in
  /// expectation (`gain`). Both are 0 where nothing was cut. Writes the head's columns of two [B, Hq]. The policy's
  /// attention is taken from `retained_mass` [B, Hq], for `count` prompt rows and every decode row,
  void compare(std::size_t head, std::size_t count, const Matrix& retained_mass, Matrix& regret, Matrix& gain) const;
  /// or read off the tile for the prompt rows `kept`.
  void compare(const Tile& tile, std::size_t head, std::span<const std::int32_t> kept, Matrix& regret,
               Matrix& gain) const;

 private:
  struct Head {
    CacheHead reads;
    std::vector<std::int32_t> order;       ///< rows held, best first
    std::vector<std::int32_t> rank;        ///< [prompt_length] place in `order`
    std::vector<std::size_t> counts;       ///< sizes announced, ascending
    std::vector<Eigen::RowVectorXd> best;  ///< [counts] attention of the tile on the oracle's sets
    Eigen::RowVectorXd all, decoded;       ///< on all rows held, and on decode rows
  };
  [[nodiscard]] Eigen::RowVectorXd no_mass(const Head& head) const;
  /// Whether a cut to `count` is none; writes zeros then.
  static bool leaves_all(const Head& head, std::size_t count, Matrix& regret, Matrix& gain);
  template <typename PolicyMass>
  void write(const Head& head, std::size_t count, const PolicyMass& policy_mass, Matrix& regret, Matrix& gain) const;

  const LayerData& layer_;
  std::vector<Head> heads_;
  Index tile_rows_ = 0;
};

}  // namespace evictsim::sim
