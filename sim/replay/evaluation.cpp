#include "sim/replay/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace evictsim::sim {
namespace {

/// Rows of probabilities, surprises and values gathered for one product; kept per thread to spare page faults.
struct Gathered {
  Matrix probability;
  Matrix values;
};

Gathered& gathered() {
  thread_local Gathered scratch;
  return scratch;
}

/// Sum of many float rows in double. A few rows are added in float first, which costs no digits that a probability has
/// and spares most conversions.
class RowSum {
 public:
  explicit RowSum(Index columns)
      : total_(Eigen::RowVectorXd::Zero(columns)), chunk_(Eigen::RowVectorXf::Zero(columns)) {}
  template <typename Row>
  void add(Index first, const Row& row) {
    chunk_.segment(first, row.size()) += row;
  }
  /// Called after each row.
  void next() {
    if (++rows_ % rows_per_chunk == 0) flush();
  }
  const Eigen::RowVectorXd& total() {
    flush();
    return total_;
  }

 private:
  static constexpr int rows_per_chunk = 8;
  void flush() {
    total_ += chunk_.cast<double>();
    chunk_.setZero();
  }
  Eigen::RowVectorXd total_;
  Eigen::RowVectorXf chunk_;
  int rows_ = 0;
};

/// Running sums over the rows of one or more kept sets.
struct Sums {
  Sums(Index columns, Index dim)
      : output(Matrix::Zero(columns, dim)),
        mass(Eigen::RowVectorXd::Zero(columns)),
        surprise(Eigen::RowVectorXd::Zero(columns)) {}
  Matrix output;                ///< [C, d] sum of p v
  Eigen::RowVectorXd mass;      ///< sum of p
  Eigen::RowVectorXd surprise;  ///< sum of p ln p
};

/// Entropy of p / mass over a set with the given sums.
double renormalised_entropy(double mass, double surprise) {
  return mass > 0 ? std::max(0.0, std::log(mass) - surprise / mass) : 0.0;
}

/// Writes the metrics of one member from its sums.
class MemberWriter {
 public:
  MemberWriter(const LayerData& layer, const Tile& tile, const CacheHead& head, BlockMetrics& out)
      : layer_(layer), tile_(tile), head_(head), out_(out) {}

  /// `full` (renormalised full output of a column), `useful_mass` (mass of the useful set that is resident),
  /// `resident` (rows of the member that a given token row attends).
  template <typename Resident>
  void write(Index member, Index column, const Eigen::RowVectorXf& full, const Sums& sums, double useful_mass,
             const Resident& resident) {
    const Index rows = tile_.size();
    const Index r = column % rows;
    const int query_head = head_.first_query_head + static_cast<int>(column / rows);
    const auto at = static_cast<std::size_t>(member);
    const int dim = layer_.geometry().head_dim;
    double mass = sums.mass[column];
    double entropy = 0;
    double useful_share = 0;
    auto difference = out_.difference.block(member * rows + r, query_head * dim, 1, dim);
    if (mass >= smallest_mass) {
      difference = sums.output.row(column) * static_cast<float>(1.0 / mass) - full;
      entropy = renormalised_entropy(mass, sums.surprise[column]);
      useful_share = useful_mass / mass;
    } else {
      write_exactly(query_head, r, full, resident(tile_.rows[static_cast<std::size_t>(r)]), difference, entropy,
                    useful_share);
    }
    const double full_norm = std::sqrt(static_cast<double>(full.squaredNorm()));
    const double error = std::sqrt(static_cast<double>(difference.squaredNorm()));
    out_.retained_mass[at](r, query_head) = static_cast<float>(std::min(mass, 1.0));
    // A full output of exactly zero has no relative error: 0 where nothing changed, else 1.
    out_.output_error[at](r, query_head) =
        static_cast<float>(full_norm > 0 ? error / full_norm : (error > 0 ? 1.0 : 0.0));
    out_.entropy[at](r, query_head) = static_cast<float>(entropy);
    out_.dilution[at](r, query_head) = tile_.useful.at(query_head, r).empty() ? std::numeric_limits<float>::quiet_NaN()
                                                                              : static_cast<float>(1.0 - useful_share);
  }

 private:
  template <typename Row>
  void write_exactly(int query_head, Index r, const Eigen::RowVectorXf& full, const std::vector<std::int32_t>& resident,
                     Row& difference, double& entropy, double& useful_share) const {
    const std::int32_t row = tile_.rows[static_cast<std::size_t>(r)];
    const MatrixView queries = layer_.queries(query_head);
    const Index place = layer_.query_place(row);
    const std::vector<double> weights =
        models::reference_weights({queries.row(place).data(), static_cast<std::size_t>(queries.cols())},
                                  layer_.keys(head_.kv_head, tile_.entries), resident, layer_.logit_rule());
    const std::vector<double> output =
        models::reference_output(weights, layer_.values(head_.kv_head, tile_.entries), resident);
    for (Index c = 0; c < full.size(); ++c) {
      difference(0, c) = static_cast<float>(output[static_cast<std::size_t>(c)] - static_cast<double>(full[c]));
    }
    for (const double weight : weights) entropy -= weight > 0 ? weight * std::log(weight) : 0.0;
    for (const UsefulSets::Entry& useful : tile_.useful.at(query_head, r)) {
      const auto found = std::lower_bound(resident.begin(), resident.end(), useful.row);
      if (found != resident.end() && *found == useful.row) {
        useful_share += weights[static_cast<std::size_t>(found - resident.begin())];
      }
    }
  }

  const LayerData& layer_;
  const Tile& tile_;
  const CacheHead& head_;
  BlockMetrics& out_;
};

Index first_column(const LayerData& layer, const Tile& tile, const CacheHead& head) {
  return (head.first_query_head - head.kv_head * layer.geometry().group_size()) * tile.size();
}

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

}  // namespace

BlockMetrics::BlockMetrics(Index members, Index rows, const models::Geometry& geometry)
    : retained_mass(static_cast<std::size_t>(members), Matrix(rows, geometry.num_query_heads)),
      output_error(retained_mass),
      dilution(retained_mass),
      entropy(retained_mass),
      difference(members * rows, geometry.num_query_heads * geometry.head_dim) {}

ResidentOutput attend_all(const models::AttentionColumns& columns, const MatrixView& values) {
  Sums sums(columns.probability.cols(), values.cols());
  sums.output.noalias() = columns.probability.transpose() * values;
  RowSum mass(sums.mass.size());
  RowSum surprise(sums.mass.size());
  for (Index j = 0; j < columns.probability.rows(); ++j) {
    mass.add(0, columns.probability.row(j));
    mass.next();
    surprise.add(0, columns.surprise.row(j));
    surprise.next();
  }
  sums.mass = mass.total();
  sums.surprise = surprise.total();
  ResidentOutput all{std::move(sums.output), sums.mass.transpose(), Eigen::VectorXd(sums.mass.size())};
  for (Index c = 0; c < all.mass.size(); ++c) {
    all.output.row(c) *= static_cast<float>(1.0 / all.mass[c]);
    all.entropy[c] = renormalised_entropy(all.mass[c], sums.surprise[c]);
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
  Gathered& scratch = gathered();
  scratch.probability.resize(tile.entries, width);
  scratch.values.resize(tile.entries, values.cols());
  std::vector<std::int32_t> order(static_cast<std::size_t>(tile.entries));
  std::vector<Index> next(ends.begin(), ends.end() - 1);
  for (std::int32_t j = 0; j < tile.entries; ++j) {
    const Index place = next[static_cast<std::size_t>(level_of(j))]++;
    order[static_cast<std::size_t>(place)] = j;
    scratch.probability.row(place) = columns.probability.row(j).segment(begin, width);
    scratch.values.row(place) = values.row(j);
  }

  Sums sums(width, values.cols());
  RowSum mass(width);
  RowSum surprise(width);
  std::vector<Sums> at_cut;
  at_cut.reserve(static_cast<std::size_t>(members));
  for (Index level = 0; level <= members; ++level) {
    const Index first = ends[static_cast<std::size_t>(level)];
    const Index count = ends[static_cast<std::size_t>(level) + 1] - first;
    if (count > 0) {
      sums.output.noalias() +=
          scratch.probability.middleRows(first, count).transpose() * scratch.values.middleRows(first, count);
      for (Index i = first; i < first + count; ++i) {
        mass.add(0, scratch.probability.row(i));
        mass.next();
        surprise.add(0, columns.surprise.row(order[static_cast<std::size_t>(i)]).segment(begin, width));
        surprise.next();
      }
      sums.mass = mass.total();
      sums.surprise = surprise.total();
    }
    if (level < members) at_cut.push_back(sums);
  }

  MemberWriter writer(layer, tile, head, out);
  std::vector<double> useful(static_cast<std::size_t>(members) + 1);
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const int query_head = head.first_query_head + static_cast<int>(column / tile.size());
    std::fill(useful.begin(), useful.end(), 0.0);
    for (const UsefulSets::Entry& entry : tile.useful.at(query_head, column % tile.size())) {
      useful[level_of(entry.row)] += static_cast<double>(entry.mass);
    }
    full = sums.output.row(column) * static_cast<float>(1.0 / sums.mass[column]);
    double useful_mass = 0;
    for (Index member = 0; member < members; ++member) {
      useful_mass += useful[static_cast<std::size_t>(member)];
      writer.write(member, column, full, at_cut[static_cast<std::size_t>(member)], useful_mass, [&](std::int32_t row) {
        return visible_rows(layer, row, [&](std::int32_t j) { return level_of(j) <= member; });
      });
    }
  }
}

void evaluate_resident(const LayerData& layer, const Tile& tile, std::span<const std::int32_t> last_row,
                       const CacheHead& head, Index member, BlockMetrics& out) {
  const auto& columns = tile.heads[static_cast<std::size_t>(head.kv_head)];
  const Index begin = first_column(layer, tile, head);
  const Index rows = tile.size();
  const Index width = head.query_heads * rows;
  const MatrixView values = layer.values(head.kv_head, tile.entries);
  Gathered& scratch = gathered();
  scratch.probability.resize(tile.entries, width);
  scratch.values.resize(tile.entries, values.cols());
  Sums sums(width, values.cols());
  RowSum mass(width);
  RowSum surprise(width);
  Index count = 0;
  for (Index j = 0; j < tile.entries; ++j) {
    const std::int32_t last = last_row[static_cast<std::size_t>(j)];
    if (last < tile.rows.front()) continue;
    scratch.values.row(count) = values.row(j);
    auto probability = scratch.probability.row(count++);
    probability = columns.probability.row(j).segment(begin, width);
    // Rows after the eviction do not attend to the entry.
    const Index attended = std::upper_bound(tile.rows.begin(), tile.rows.end(), last) - tile.rows.begin();
    for (int g = 0; g < head.query_heads; ++g) {
      probability.segment(g * rows + attended, rows - attended).setZero();
      surprise.add(g * rows, columns.surprise.row(j).segment(begin + g * rows, attended));
    }
    surprise.next();
    mass.add(0, probability);
    mass.next();
  }
  sums.mass = mass.total();
  sums.surprise = surprise.total();
  sums.output.noalias() = scratch.probability.topRows(count).transpose() * scratch.values.topRows(count);

  MemberWriter writer(layer, tile, head, out);
  const int dim = layer.geometry().head_dim;
  Eigen::RowVectorXf full;
  for (Index column = 0; column < width; ++column) {
    const Index r = column % rows;
    const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
    const int query_head = head.first_query_head + static_cast<int>(column / rows);
    double useful_mass = 0;
    for (const UsefulSets::Entry& entry : tile.useful.at(query_head, r)) {
      if (last_row[static_cast<std::size_t>(entry.row)] >= row) useful_mass += static_cast<double>(entry.mass);
    }
    full = tile.output.block(r, query_head * dim, 1, dim);
    writer.write(member, column, full, sums, useful_mass, [&](std::int32_t token_row) {
      return visible_rows(layer, token_row,
                          [&](std::int32_t j) { return last_row[static_cast<std::size_t>(j)] >= token_row; });
    });
  }
}

}  // namespace evictsim::sim
