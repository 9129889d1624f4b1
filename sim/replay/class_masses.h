#pragma once
/// \file
/// How the attention of a tile's rows is split over the classes of tokens (docs/metrics.md).

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "models/attention.h"
#include "sim/replay/tile.h"
#include "sim/replay/token_classes.h"

namespace evictsim::sim {

/// Splits the full attention of a tile that has its useful sets: fills `classes`, `class_mass` and `decoded_mass`.
/// Useful and distractor are NaN where there is no useful set.
void split_by_class(const LayerData& layer, const TokenClasses& classes, Tile& tile);

/// Splits attention `weights` [entries] on the token rows `entries` in row `r` of a query head.
ClassMasses split_weights(const Tile& tile, int query_head, Index r, std::span<const std::int32_t> entries,
                          std::span<const double> weights);

/// Writes the classes of a row and query head; useful and distractor are NaN where there is no useful set.
void store_classes(const Tile& tile, int query_head, Index r, const ClassMasses& masses, ClassMatrices& out);

/// Mass on entries that are looked up one by one.
struct ListedMasses {
  ClassMasses classes = {};
  double useful_set = 0;  ///< of every useful entry, sinks among them
};

/// The part of a split that looks up single entries. `columns`: attention of the query head's KV head, whose `column`
/// is the row `r` of the query head. `place(row)` is the ListedMasses that the mass on an entry goes to. Takes useful
/// entries out of `decoded`, which the caller fills with the mass on every entry that may be decoded; `fill_rest` is
/// the caller's too.
template <typename Place>
void add_listed(const Tile& tile, const models::AttentionColumns& columns, int query_head, Index r, Index column,
                const Place& place) {
  const TokenClasses& classes = tile.classes;
  const auto entries = static_cast<std::int32_t>(tile.entries);
  const auto add = [&](std::int32_t row, TokenClass kind, double mass) {
    place(row).classes[TokenClasses::of(kind)] += mass;
  };
  for (std::int32_t row = 0; row < std::min(classes.sinks(), entries); ++row) {
    add(row, TokenClass::sink, static_cast<double>(columns.probability(row, column)));
  }
  const auto& useful = tile.useful.at(query_head, r);
  for (const UsefulSets::Entry& entry : useful) {
    const auto mass = static_cast<double>(entry.mass);
    ListedMasses& masses = place(entry.row);
    masses.useful_set += mass;
    if (entry.row < classes.sinks()) continue;
    masses.classes[TokenClasses::of(TokenClass::useful)] += mass;
    if (classes.may_be_decoded(entry.row)) masses.classes[TokenClasses::of(TokenClass::decoded)] -= mass;
  }
  for (const std::int32_t row : classes.distractors()) {
    if (row >= entries) break;
    const bool is_useful = std::binary_search(useful.begin(), useful.end(), UsefulSets::Entry{.row = row, .mass = 0},
                                              [](const auto& a, const auto& b) { return a.row < b.row; });
    if (!is_useful) add(row, TokenClass::distractor, static_cast<double>(columns.probability(row, column)));
  }
}

}  // namespace evictsim::sim
