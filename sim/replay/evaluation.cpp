#include "sim/replay/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/replay/attention_sums.h"

namespace evictsim::sim {
namespace {

/// Writes the metrics of one member from its sums.
class MemberWriter {
 public:
  MemberWriter(const LayerData& layer, const Tile& tile, const CacheHead& head, BlockMetrics& out)
      : layer_(layer), tile_(tile), head_(head), out_(out) {}

  /// Turns to a column, whose renormalised full output is `full`.
  void begin(Index column, const Eigen::RowVectorXf& full) {
    column_ = column;
    row_ = column % tile_.size();
    query_head_ = head_.first_query_head + static_cast<int>(column / tile_.size());
    full_norm_ = std::sqrt(static_cast<double>(full.squaredNorm()));
  }

  /// The column of a member. `useful_mass`: mass of the useful set that is resident; `classes`: that of the classes,
  /// but for what fills the rest; `resident`: rows of the member that a given token row attends.
  template <typename Resident>
  void write(Index member, const Eigen::RowVectorXf& full, const AttentionTotals& sums, double useful_mass,
             const ClassMasses& classes, const Resident& resident) {
    const Index dim = layer_.geometry().head_dim;
    HeadMetrics metrics{.mass = sums.mass[column_], .full_norm = full_norm_};
    if (metrics.mass >= smallest_mass) {
      moved_ = sums.output.row(column_).head(dim) * static_cast<float>(1.0 / metrics.mass) - full;
      metrics.entropy = sums.renormalised_entropy(column_);
      metrics.useful_share = useful_mass / metrics.mass;
      metrics.classes = classes;
      tile_.classes.fill_rest(metrics.mass, metrics.classes);
      for (double& mass : metrics.classes) mass /= metrics.mass;
    } else {
      write_exactly(query_head_, row_, full, resident(tile_.rows[static_cast<std::size_t>(row_)]), metrics);
    }
    out_.difference.block(member * tile_.size() + row_, query_head_ * dim, 1, dim) = moved_;
    metrics.error_norm = std::sqrt(static_cast<double>(moved_.squaredNorm()));
    out_.store(member, tile_, row_, query_head_, metrics);
  }

 private:
  void write_exactly(int query_head, Index r, const Eigen::RowVectorXf& full, const std::vector<std::int32_t>& resident,
                     HeadMetrics& metrics) {
    moved_.resize(full.size());
    const std::int32_t row = tile_.rows[static_cast<std::size_t>(r)];
    const MatrixView queries = layer_.queries(query_head);
    const Index place = layer_.query_place(row);
    const std::vector<double> weights =
        models::reference_weights({queries.row(place).data(), static_cast<std::size_t>(queries.cols())},
                                  layer_.keys(head_.kv_head, tile_.entries), resident, layer_.logit_rule());
    const std::vector<double> output =
        models::reference_output(weights, layer_.values(head_.kv_head, tile_.entries), resident);
    for (Index c = 0; c < full.size(); ++c) {
      moved_[c] = static_cast<float>(output[static_cast<std::size_t>(c)] - static_cast<double>(full[c]));
    }
    for (const double weight : weights) metrics.entropy -= weight > 0 ? weight * std::log(weight) : 0.0;
    metrics.classes = split_weights(tile_, query_head, r, resident, weights);
    for (const UsefulSets::Entry& useful : tile_.useful.at(query_head, r)) {
      const auto found = std::lower_bound(resident.begin(), resident.end(), useful.row);
      if (found != resident.end() && *found == useful.row) {
        metrics.useful_share += weights[static_cast<std::size_t>(found - resident.begin())];
      }
    }
  }

  const LayerData& layer_;
  const Tile& tile_;
  const CacheHead& head_;
  BlockMetrics& out_;
  // The column at hand.
  Index column_ = 0, row_ = 0;
  int query_head_ = 0;
  double full_norm_ = 0;
  Eigen::RowVectorXf moved_;  ///< [d] output of the member at hand minus full output
};

/// Rows that token row `row` sees, among those that `is_resident` accepts.
template <typename Accept>
std::vector<std::int32_t> visible_rows(const LayerData& layer, std::int32_t row, const Accept& is_resident) {
  const models::EntryRange range = models::visible_entries(layer.positions(), row, layer.sliding_window());
  std::vector<std::int32_t> rows;
  for (auto j = static_cast<std::int32_t>(range.first); j < range.last; ++j) {
    if (is_resident(j)) rows.push_back(j);
  }
  return rows;
}

/// Asks for the rows of an entry that is added soon, `ahead` places on: the processor does not foresee parts of rows.
constexpr std::int32_t ahead = 3;
void prefetch(const models::AttentionColumns& columns, Index entry, Index begin, Index width) {
  constexpr Index line = 64 / sizeof(float);
  for (Index c = begin; c < begin + width; c += line) {
    __builtin_prefetch(&columns.probability(entry, c));
    __builtin_prefetch(&columns.surprise(entry, c));
  }
}

}  // namespace

BlockMetrics::BlockMetrics(Index members, Index rows, const models::Geometry& geometry)
    : retained_mass(static_cast<std::size_t>(members), Matrix(rows, geometry.num_query_heads)),
      output_error(retained_mass),
      dilution(retained_mass),
      entropy(retained_mass),
      class_mass(static_cast<std::size_t>(members)),
      difference(members * rows, geometry.num_query_heads * geometry.head_dim) {
  for (ClassMatrices& matrices : class_mass) matrices.fill(Matrix(rows, geometry.num_query_heads));
}

void BlockMetrics::store(Index member, const Tile& tile, Index r, int query_head, const HeadMetrics& metrics) {
  const auto at = static_cast<std::size_t>(member);
  retained_mass[at](r, query_head) = static_cast<float>(std::min(metrics.mass, 1.0));
  // A full output of exactly zero has no relative error: 0 where nothing changed, else 1.
  output_error[at](r, query_head) = static_cast<float>(metrics.full_norm > 0 ? metrics.error_norm / metrics.full_norm
                                                                             : (metrics.error_norm > 0 ? 1.0 : 0.0));
  entropy[at](r, query_head) = static_cast<float>(metrics.entropy);
  dilution[at](r, query_head) = tile.useful.at(query_head, r).empty() ? std::numeric_limits<float>::quiet_NaN()
                                                                      : static_cast<float>(1.0 - metrics.useful_share);
  store_classes(tile, query_head, r, metrics.classes, class_mass[at]);
}

Index first_column(const LayerData& layer, const Tile& tile, const CacheHead& head) {
  return (head.first_query_head - head.kv_head * layer.geometry().group_size()) * tile.size();
}

ResidentOutput attend_all(const models::AttentionColumns& columns, const MatrixView& values) {
  const Index count = columns.probability.cols();
  AttentionSums sums(count, values.cols());
  for (Index j = 0; j < columns.probability.rows(); ++j) {
    sums.add(columns.probability.row(j).data(), columns.surprise.row(j).data(), values.row(j).data());
  }
  const AttentionTotals& totals = sums.totals();
  ResidentOutput all{totals.output.topLeftCorner(count, values.cols()), totals.mass.transpose(),
                     Eigen::VectorXd(count)};
  for (Index c = 0; c < count; ++c) {
    all.output.row(c) *= static_cast<float>(1.0 / all.mass[c]);
    all.entropy[c] = totals.renormalised_entropy(c);
  }
  return all;
}

void evaluate_chain(const LayerData& layer, const Tile& tile, const KeptChain& chain, std::size_t cache_head,
                    const CacheHead& head, BlockMetrics& out) {
  const auto& columns = tile.heads[static_cast<std::size_t>(head.kv_head)];
  const Index begin = first_column(layer, tile, head);
  const Index width = head.query_heads * tile.size();
  const Index members = static_cast<Index>(chain.points.size());
  const MatrixView values = layer.values(head.kv_head, tile.entries);
  const auto& levels = chain.level[cache_head];
  // Decode rows are resident at every member.
  const auto level_of = [&](std::int32_t row) {
    return static_cast<std::size_t>(row) < levels.size() ? levels[static_cast<std::size_t>(row)] : std::uint16_t{0};
  };

  // Counting sort by level; rows stay ascending inside a level.
  std::vector<Index> ends(static_cast<std::size_t>(members) + 2, 0);
  for (std::int32_t j = 0; j < tile.entries; ++j) ++ends[static_cast<std::size_t>(level_of(j)) + 1];
  for (std::size_t l = 1; l < ends.size(); ++l) ends[l] += ends[l - 1];
  std::vector<Index> next(ends.begin(), ends.end() - 1);
  std::vector<std::int32_t> order(static_cast<std::size_t>(tile.entries));
  for (std::int32_t j = 0; j < tile.entries; ++j) {
    order[static_cast<std::size_t>(next[static_cast<std::size_t>(level_of(j))]++)] = j;
  }

  AttentionSums sums(width, values.cols());
  Eigen::RowVectorXd decoded = Eigen::RowVectorXd::Zero(width);
  std::vector<AttentionTotals> at_cut;
  at_cut.reserve(static_cast<std::size_t>(members));
  for (Index level = 0; level <= members; ++level) {
    for (Index i = ends[static_cast<std::size_t>(level)]; i < ends[static_cast<std::size_t>(level) + 1]; ++i) {
      if (i + ahead < tile.entries) prefetch(columns, order[static_cast<std::size_t>(i + ahead)], begin, width);
      const Index j = order[static_cast<std::size_t>(i)];
      sums.add(&columns.probability(j, begin), &columns.surprise(j, begin), values.row(j).data());
      if (static_cast<std::size_t>(j) >= levels.size() && tile.classes.may_be_decoded(static_cast<std::int32_t>(j))) {
        decoded += columns.probability.row(j).segment(begin, width).cast<double>();
      }
    }
    if (level < members) at_cut.push_back(sums.totals());
  }
  const AttentionTotals& all = sums.totals();

  MemberWriter writer(layer, tile, head, out);
  std::vector<double> useful(static_cast<std::size_t>(members) + 1);
  std::vector<ClassMasses> classes(useful.size());
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const int query_head = head.first_query_head + static_cast<int>(column / tile.size());
    std::fill(useful.begin(), useful.end(), 0.0);
    for (const UsefulSets::Entry& entry : tile.useful.at(query_head, column % tile.size())) {
      useful[level_of(entry.row)] += static_cast<double>(entry.mass);
    }
    std::fill(classes.begin(), classes.end(), ClassMasses{});
    classes.front()[TokenClasses::of(TokenClass::decoded)] = decoded[column];
    add_listed(tile, columns, query_head, column % tile.size(), begin + column,
               [&](std::int32_t row) { return &classes[level_of(row)]; });
    full = all.output.row(column).head(values.cols()) * static_cast<float>(1.0 / all.mass[column]);
    writer.begin(column, full);
    double useful_mass = 0;
    ClassMasses kept = {};
    for (Index member = 0; member < members; ++member) {
      const auto at = static_cast<std::size_t>(member);
      useful_mass += useful[at];
      for (std::size_t kind = 0; kind < token_class_count; ++kind) kept[kind] += classes[at][kind];
      writer.write(member, full, at_cut[at], useful_mass, kept, [&](std::int32_t row) {
        return visible_rows(layer, row, [&](std::int32_t j) { return level_of(j) <= member; });
      });
    }
  }
}

std::vector<std::int32_t> attended_counts(const LayerData& layer, const Tile& tile, const KeptChain& chain,
                                          Index member) {
  const auto prompt = static_cast<std::ptrdiff_t>(layer.prompt_length());
  std::vector<std::int32_t> counts(tile.rows.size() * chain.level.size());
  for (std::size_t head = 0; head < chain.level.size(); ++head) {
    const auto& level = chain.level[head];
    std::ptrdiff_t first = -1;
    std::ptrdiff_t kept = 0;
    for (std::size_t r = 0; r < tile.rows.size(); ++r) {
      const models::EntryRange seen = models::visible_entries(layer.positions(), tile.rows[r], layer.sliding_window());
      if (first != std::min<std::ptrdiff_t>(seen.first, prompt)) {
        first = std::min<std::ptrdiff_t>(seen.first, prompt);
        kept = std::count_if(level.begin() + first, level.end(), [&](std::uint16_t l) { return l <= member; });
      }
      counts[r * chain.level.size() + head] =
          static_cast<std::int32_t>(kept + seen.last - std::max<std::ptrdiff_t>(seen.first, prompt));
    }
  }
  return counts;
}

void evaluate_resident(const LayerData& layer, const Tile& tile, std::span<const std::int32_t> last_row,
                       const CacheHead& head, Index member, BlockMetrics& out) {
  const auto& columns = tile.heads[static_cast<std::size_t>(head.kv_head)];
  const Index begin = first_column(layer, tile, head);
  const Index rows = tile.size();
  const Index width = head.query_heads * rows;
  const MatrixView values = layer.values(head.kv_head, tile.entries);
  AttentionSums sums(width, values.cols());
  Eigen::RowVectorXf probability;
  Eigen::RowVectorXf surprise;
  Eigen::RowVectorXd decoded = Eigen::RowVectorXd::Zero(width);
  for (std::int32_t j = 0; j < tile.entries; ++j) {
    const std::int32_t last = last_row[static_cast<std::size_t>(j)];
    if (last < tile.rows.front()) continue;
    if (j + ahead < tile.entries) prefetch(columns, j + ahead, begin, width);
    const bool may_be_decoded = j >= layer.prompt_length() && tile.classes.may_be_decoded(j);
    if (last >= tile.rows.back()) {
      sums.add(&columns.probability(j, begin), &columns.surprise(j, begin), values.row(j).data());
      if (may_be_decoded) decoded += columns.probability.row(j).segment(begin, width).cast<double>();
      continue;
    }
    // Rows after the eviction do not attend to the entry.
    const Index attended = std::upper_bound(tile.rows.begin(), tile.rows.end(), last) - tile.rows.begin();
    probability = columns.probability.row(j).segment(begin, width);
    surprise = columns.surprise.row(j).segment(begin, width);
    for (int g = 0; g < head.query_heads; ++g) {
      probability.segment(g * rows + attended, rows - attended).setZero();
      surprise.segment(g * rows + attended, rows - attended).setZero();
    }
    sums.add(probability.data(), surprise.data(), values.row(j).data());
    if (may_be_decoded) decoded += probability.cast<double>();
  }
  const AttentionTotals& totals = sums.totals();

  MemberWriter writer(layer, tile, head, out);
  const Index dim = layer.geometry().head_dim;
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const Index r = column % rows;
    const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
    const int query_head = head.first_query_head + static_cast<int>(column / rows);
    double useful_mass = 0;
    for (const UsefulSets::Entry& entry : tile.useful.at(query_head, r)) {
      if (last_row[static_cast<std::size_t>(entry.row)] >= row) useful_mass += static_cast<double>(entry.mass);
    }
    ClassMasses classes = {};
    classes[TokenClasses::of(TokenClass::decoded)] = decoded[column];
    add_listed(tile, columns, query_head, r, begin + column, [&](std::int32_t entry) {
      return last_row[static_cast<std::size_t>(entry)] >= row ? &classes : nullptr;
    });
    full = tile.output.block(r, query_head * dim, 1, dim);
    writer.begin(column, full);
    writer.write(member, full, totals, useful_mass, classes, [&](std::int32_t token_row) {
      return visible_rows(layer, token_row,
                          [&](std::int32_t j) { return last_row[static_cast<std::size_t>(j)] >= token_row; });
    });
  }
}

}  // namespace evictsim::sim
