#include "sim/replay/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace evictsim::sim {
namespace {

/// Writes the metrics of one member from its sums.
class MemberWriter {
 public:
  MemberWriter(const LayerData& layer, const Tile& tile, const CacheHead& head, BlockMetrics& out)
      : layer_(layer), tile_(tile), head_(head), out_(out) {}

  /// Where the output of a member is kept, and what it moved by in the end.
  auto output(Index member, Index column) {
    const Index dim = layer_.geometry().head_dim;
    const auto query_head = static_cast<Index>(head_.first_query_head) + column / tile_.size();
    return out_.difference.row(member * tile_.size() + column % tile_.size()).segment(query_head * dim, dim);
  }

  /// Turns to a column, whose renormalised full output is `full`.
  void begin(Index column, const Eigen::RowVectorXf& full) {
    column_ = column;
    row_ = column % tile_.size();
    query_head_ = head_.first_query_head + static_cast<int>(column / tile_.size());
    full_norm_ = std::sqrt(static_cast<double>(full.squaredNorm()));
  }

  /// The column of a member, whose sums of outputs are in `output(member, column)` and others in `sums`. `listed`: mass
  /// that is resident, but for what fills the rest of the classes; `resident`: rows of the member that a given token
  /// row attends.
  template <typename Resident>
  void write(Index member, const Eigen::RowVectorXf& full, const AttentionTotals& sums, const ListedMasses& listed,
             const Resident& resident) {
    auto moved = output(member, column_);
    HeadMetrics metrics{.mass = sums.mass[column_], .full_norm = full_norm_};
    if (metrics.mass >= smallest_mass) {
      moved = moved * static_cast<float>(1.0 / metrics.mass) - full;
      metrics.entropy = sums.renormalised_entropy(column_);
      metrics.useful_share = listed.useful_set / metrics.mass;
      metrics.classes = listed.classes;
      tile_.classes.fill_rest(metrics.mass, metrics.classes);
      for (double& mass : metrics.classes) mass /= metrics.mass;
    } else {
      write_exactly(full, resident(tile_.rows[static_cast<std::size_t>(row_)]), moved, metrics);
    }
    metrics.error_norm = std::sqrt(static_cast<double>(moved.squaredNorm()));
    out_.store(member, tile_, row_, query_head_, metrics);
  }

 private:
  template <typename Moved>
  void write_exactly(const Eigen::RowVectorXf& full, const std::vector<std::int32_t>& resident, Moved& moved,
                     HeadMetrics& metrics) {
    const std::int32_t row = tile_.rows[static_cast<std::size_t>(row_)];
    const MatrixView queries = layer_.queries(query_head_);
    const Index place = layer_.query_place(row);
    const std::vector<double> weights =
        models::reference_weights({queries.row(place).data(), static_cast<std::size_t>(queries.cols())},
                                  layer_.keys(head_.kv_head, tile_.entries), resident, layer_.logit_rule());
    const std::vector<double> output =
        models::reference_output(weights, layer_.values(head_.kv_head, tile_.entries), resident);
    for (Index c = 0; c < full.size(); ++c) {
      moved[c] = static_cast<float>(output[static_cast<std::size_t>(c)] - static_cast<double>(full[c]));
    }
    for (const double weight : weights) metrics.entropy -= weight > 0 ? weight * std::log(weight) : 0.0;
    metrics.classes = split_weights(tile_, query_head_, row_, resident, weights);
    for (const UsefulSets::Entry& useful : tile_.useful.at(query_head_, row_)) {
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

FullAttention attend_all(const models::AttentionColumns& columns, const MatrixView& values, Index prompt_length) {
  const Index count = columns.probability.cols();
  AttentionSums sums(count, values.cols());
  const auto add = [&](Index first, Index last) {
    for (Index j = first; j < last; ++j) {
      sums.add(columns.probability.row(j).data(), columns.surprise.row(j).data(), values.row(j).data());
    }
  };
  add(prompt_length, columns.probability.rows());
  FullAttention all{.output = {}, .entropy = Eigen::VectorXd(count), .decoded = sums.totals()};
  add(0, prompt_length);
  const AttentionTotals& totals = sums.totals();
  all.output = totals.output.topLeftCorner(count, values.cols());
  for (Index c = 0; c < count; ++c) {
    all.output.row(c) *= static_cast<float>(1.0 / totals.mass[c]);
    all.entropy[c] = totals.renormalised_entropy(c);
  }
  return all;
}

void evaluate_chain(const LayerData& layer, const Tile& tile, const KeptChain& chain, std::size_t cache_head,
                    const CacheHead& head, BlockMetrics& out) {
  const auto kv_head = static_cast<std::size_t>(head.kv_head);
  const models::AttentionColumns& columns = tile.heads[kv_head];
  const Index begin = first_column(layer, tile, head);
  const Index width = head.query_heads * tile.size();
  const Index members = static_cast<Index>(chain.points.size());
  const MatrixView values = layer.values(head.kv_head, tile.entries);
  const auto& levels = chain.level[cache_head];
  // Decode rows are resident at every member.
  const auto level_of = [&](std::int32_t row) {
    return static_cast<std::size_t>(row) < levels.size() ? levels[static_cast<std::size_t>(row)] : std::uint16_t{0};
  };

  // Counting sort of the prompt by level; rows stay ascending inside a level.
  const auto prompt = static_cast<std::int32_t>(levels.size());
  std::vector<Index> ends(static_cast<std::size_t>(members) + 2, 0);
  for (const std::uint16_t level : levels) ++ends[static_cast<std::size_t>(level) + 1];
  for (std::size_t l = 1; l < ends.size(); ++l) ends[l] += ends[l - 1];
  std::vector<Index> next(ends.begin(), ends.end() - 1);
  std::vector<std::int32_t> order(levels.size());
  for (std::int32_t j = 0; j < prompt; ++j) {
    order[static_cast<std::size_t>(next[levels[static_cast<std::size_t>(j)]]++)] = j;
  }

  MemberWriter writer(layer, tile, head, out);
  AttentionSums sums(tile.decoded[kv_head], begin, width, values.cols());
  const auto decoded = tile.decoded_mass[kv_head].segment(begin, width);
  std::vector<AttentionTotals> at_cut;  // without outputs, which lie where the writer wants them
  for (Index level = 0; level <= members; ++level) {
    for (Index i = ends[static_cast<std::size_t>(level)]; i < ends[static_cast<std::size_t>(level) + 1]; ++i) {
      if (i + ahead < prompt) prefetch(columns, order[static_cast<std::size_t>(i + ahead)], begin, width);
      const Index j = order[static_cast<std::size_t>(i)];
      sums.add(&columns.probability(j, begin), &columns.surprise(j, begin), values.row(j).data());
    }
    if (level == members) break;
    const AttentionTotals& totals = sums.totals();
    at_cut.push_back({.output = {}, .mass = totals.mass, .surprise = totals.surprise});
    for (Index column = 0; column < width; ++column) {
      writer.output(level, column) = totals.output.row(column).head(values.cols());
    }
  }
  const AttentionTotals& all = sums.totals();

  std::vector<ListedMasses> first_kept(static_cast<std::size_t>(members) + 1);
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const int query_head = head.first_query_head + static_cast<int>(column / tile.size());
    std::fill(first_kept.begin(), first_kept.end(), ListedMasses{});
    first_kept.front().classes[TokenClasses::of(TokenClass::decoded)] = decoded[column];
    add_listed(tile, columns, query_head, column % tile.size(), begin + column,
               [&](std::int32_t row) -> ListedMasses& { return first_kept[level_of(row)]; });
    full = all.output.row(column).head(values.cols()) * static_cast<float>(1.0 / all.mass[column]);
    writer.begin(column, full);
    ListedMasses kept;
    for (Index member = 0; member < members; ++member) {
      const auto at = static_cast<std::size_t>(member);
      kept.useful_set += first_kept[at].useful_set;
      for (std::size_t kind = 0; kind < token_class_count; ++kind) kept.classes[kind] += first_kept[at].classes[kind];
      writer.write(member, full, at_cut[at], kept, [&](std::int32_t row) {
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
  const auto kv_head = static_cast<std::size_t>(head.kv_head);
  const models::AttentionColumns& columns = tile.heads[kv_head];
  const Index begin = first_column(layer, tile, head);
  const Index rows = tile.size();
  const Index width = head.query_heads * rows;
  const MatrixView values = layer.values(head.kv_head, tile.entries);
  const auto prompt = static_cast<std::int32_t>(layer.prompt_length());
  const auto entries = static_cast<std::int32_t>(tile.entries);
  const bool keeps_decoded = std::all_of(last_row.begin() + prompt, last_row.begin() + entries,
                                         [&](std::int32_t last) { return last >= tile.rows.back(); });
  AttentionSums sums = keeps_decoded ? AttentionSums(tile.decoded[kv_head], begin, width, values.cols())
                                     : AttentionSums(width, values.cols());
  Eigen::RowVectorXf surprise;
  Eigen::RowVectorXd decoded = Eigen::RowVectorXd::Zero(width);
  const auto add = [&](std::int32_t first, std::int32_t end) {
    for (std::int32_t j = first; j < end; ++j) {
      const std::int32_t last = last_row[static_cast<std::size_t>(j)];
      if (last < tile.rows.front()) continue;
      if (j + ahead < end) prefetch(columns, j + ahead, begin, width);
      const bool may_be_decoded = tile.classes.may_be_decoded(j);
      if (last >= tile.rows.back()) {
        sums.add(&columns.probability(j, begin), &columns.surprise(j, begin), values.row(j).data());
        if (may_be_decoded) decoded += columns.probability.row(j).segment(begin, width).cast<double>();
        continue;
      }
      // Rows after the eviction do not attend to the entry.
      const Index attended = std::upper_bound(tile.rows.begin(), tile.rows.end(), last) - tile.rows.begin();
      Eigen::Map<Eigen::RowVectorXf> probability(sums.own_probability(), width);
      probability = columns.probability.row(j).segment(begin, width);
      surprise = columns.surprise.row(j).segment(begin, width);
      for (int g = 0; g < head.query_heads; ++g) {
        probability.segment(g * rows + attended, rows - attended).setZero();
        surprise.segment(g * rows + attended, rows - attended).setZero();
      }
      sums.add(probability.data(), surprise.data(), values.row(j).data());
      if (may_be_decoded) decoded += probability.cast<double>();
    }
  };
  // In the order of attend_all, so that rows that still attend to everything lose exactly nothing.
  if (keeps_decoded) {
    decoded = tile.decoded_mass[kv_head].segment(begin, width);
  } else {
    add(prompt, entries);
    sums.totals();
  }
  add(0, prompt);
  const AttentionTotals& totals = sums.totals();

  MemberWriter writer(layer, tile, head, out);
  const Index dim = layer.geometry().head_dim;
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const Index r = column % rows;
    const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
    const int query_head = head.first_query_head + static_cast<int>(column / rows);
    // Picked by index, which costs less than a branch that nothing foretells.
    std::array<ListedMasses, 2> listed;  // evicted, kept
    ListedMasses& kept = listed[1];
    kept.classes[TokenClasses::of(TokenClass::decoded)] = decoded[column];
    add_listed(tile, columns, query_head, r, begin + column, [&](std::int32_t entry) -> ListedMasses& {
      return listed[static_cast<std::size_t>(last_row[static_cast<std::size_t>(entry)] >= row)];
    });
    full = tile.output.block(r, query_head * dim, 1, dim);
    writer.output(member, column) = totals.output.row(column).head(dim);
    writer.begin(column, full);
    writer.write(member, full, totals, kept, [&](std::int32_t token_row) {
      return visible_rows(layer, token_row,
                          [&](std::int32_t j) { return last_row[static_cast<std::size_t>(j)] >= token_row; });
    });
  }
}

}  // namespace evictsim::sim
