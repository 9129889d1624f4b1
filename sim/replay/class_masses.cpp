#include "sim/replay/class_masses.h"

#include <tbb/parallel_for.h>

namespace evictsim::sim {
namespace {

/// Attention [G * B] of one KV head's columns on the entries that may be of the class decoded.
Eigen::RowVectorXd mass_on_decoded(const models::AttentionColumns& columns, const TokenClasses& classes,
                                   Index prompt_length) {
  Eigen::RowVectorXd mass = Eigen::RowVectorXd::Zero(columns.probability.cols());
  for (Index row = prompt_length; row < columns.probability.rows(); ++row) {
    if (classes.may_be_decoded(static_cast<std::int32_t>(row))) mass += columns.probability.row(row).cast<double>();
  }
  return mass;
}

}  // namespace

void split_by_class(const LayerData& layer, const TokenClasses& classes, Tile& tile) {
  tile.classes = classes;
  const models::Geometry& geometry = layer.geometry();
  for (Matrix& masses : tile.class_mass) masses.resize(tile.size(), geometry.num_query_heads);
  tbb::parallel_for(0, geometry.num_kv_heads, [&](int kv_head) {
    const models::AttentionColumns& columns = tile.heads[static_cast<std::size_t>(kv_head)];
    Eigen::RowVectorXd& decoded = tile.decoded_mass[static_cast<std::size_t>(kv_head)];
    decoded = mass_on_decoded(columns, classes, layer.prompt_length());
    for (Index column = 0; column < decoded.size(); ++column) {
      const int query_head = kv_head * geometry.group_size() + static_cast<int>(column / tile.size());
      const Index r = column % tile.size();
      ListedMasses masses;
      masses.classes[TokenClasses::of(TokenClass::decoded)] = decoded[column];
      add_listed(tile, columns, query_head, r, column, [&](std::int32_t) -> ListedMasses& { return masses; });
      classes.fill_rest(1, masses.classes);
      store_classes(tile, query_head, r, masses.classes, tile.class_mass);
    }
  });
}

ClassMasses split_weights(const Tile& tile, int query_head, Index r, std::span<const std::int32_t> entries,
                          std::span<const double> weights) {
  ClassMasses masses = {};
  const auto& useful = tile.useful.at(query_head, r);
  auto next = useful.begin();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    while (next != useful.end() && next->row < entries[i]) ++next;
    tile.classes.add(entries[i], next != useful.end() && next->row == entries[i], weights[i], masses);
  }
  return masses;
}

void store_classes(const Tile& tile, int query_head, Index r, const ClassMasses& masses, ClassMatrices& out) {
  const bool has_set = !tile.useful.at(query_head, r).empty();
  for (const TokenClass kind : {TokenClass::sink, TokenClass::useful, TokenClass::distractor, TokenClass::decoded}) {
    const bool known = has_set || kind == TokenClass::sink || kind == TokenClass::decoded;
    const std::size_t at = TokenClasses::of(kind);
    // Useful entries are taken out of the decoded ones, which may leave a rounding error below 0.
    out[at](r, query_head) =
        known ? static_cast<float>(std::clamp(masses[at], 0.0, 1.0)) : std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace evictsim::sim
