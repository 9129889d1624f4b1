#include "sim/replay/oracle.h"

#include <algorithm>

#include <tbb/parallel_for.h>

namespace evictsim::sim {
namespace {

std::size_t at(std::int64_t value) { return static_cast<std::size_t>(value); }

/// What the queries of a cache head give to one entry: [query heads * B].
auto attention_on(const LayerData& layer, const Tile& tile, const CacheHead& head, Index row) {
  return tile.heads[at(head.kv_head)]
      .probability.row(row)
      .segment(first_column(layer, tile, head), head.query_heads * tile.size())
      .cast<double>();
}

}  // namespace

Oracle::Oracle(const LayerData& layer, std::vector<CacheHead> heads, const FutureMass& mass,
               std::span<const std::int32_t> held)
    : layer_(layer), heads_(heads.size()) {
  for (std::size_t index = 0; index < heads.size(); ++index) {
    Head& head = heads_[index];
    head.reads = heads[index];
    std::vector<double> future(at(layer.prompt_length()), 0.0);
    for (int h = head.reads.first_query_head; h < head.reads.first_query_head + head.reads.query_heads; ++h) {
      for (std::size_t j = 0; j < future.size(); ++j) future[j] += mass[at(h)][j];
    }
    head.order.assign(held.begin(), held.end());
    std::stable_sort(head.order.begin(), head.order.end(),
                     [&](std::int32_t a, std::int32_t b) { return future[at(a)] > future[at(b)]; });
    head.rank.assign(future.size(), 0);
    for (std::size_t place = 0; place < head.order.size(); ++place) {
      head.rank[at(head.order[place])] = static_cast<std::int32_t>(place);
    }
  }
}

std::vector<CacheHead> Oracle::heads() const {
  std::vector<CacheHead> heads;
  for (const Head& head : heads_) heads.push_back(head.reads);
  return heads;
}

double Oracle::overlap(std::size_t head, std::span<const std::int32_t> kept) const {
  if (kept.empty()) return 1.0;
  const auto& rank = heads_[head].rank;
  const auto common =
      std::count_if(kept.begin(), kept.end(), [&](std::int32_t j) { return at(rank[at(j)]) < kept.size(); });
  return static_cast<double>(common) / static_cast<double>(kept.size());
}

void Oracle::expect(std::size_t head, std::size_t count) {
  auto& counts = heads_[head].counts;
  const auto place = std::lower_bound(counts.begin(), counts.end(), count);
  if (place == counts.end() || *place != count) counts.insert(place, count);
}

Eigen::RowVectorXd Oracle::no_mass(const Head& head) const {
  return Eigen::RowVectorXd::Zero(head.reads.query_heads * tile_rows_);
}

void Oracle::attend(const Tile& tile) {
  tile_rows_ = tile.size();
  tbb::parallel_for(std::size_t{0}, heads_.size(), [&](std::size_t index) {
    Head& head = heads_[index];
    head.best.clear();
    if (head.counts.empty() || head.counts.front() == head.order.size()) return;  // nothing is cut
    Eigen::RowVectorXd sum = no_mass(head);
    std::size_t added = 0;
    const auto add_up_to = [&](std::size_t count) {
      for (; added < count; ++added) sum += attention_on(layer_, tile, head.reads, head.order[added]);
    };
    for (const std::size_t count : head.counts) {
      add_up_to(count);
      head.best.push_back(sum);
    }
    add_up_to(head.order.size());
    head.all = sum;
    head.decoded = no_mass(head);
    for (Index row = layer_.prompt_length(); row < tile.entries; ++row) {
      head.decoded += attention_on(layer_, tile, head.reads, row);
    }
  });
}

bool Oracle::leaves_all(const Head& head, std::size_t count, Matrix& regret, Matrix& gain) {
  if (count < head.order.size()) return false;
  regret.middleCols(head.reads.first_query_head, head.reads.query_heads).setZero();
  gain.middleCols(head.reads.first_query_head, head.reads.query_heads).setZero();
  return true;
}

template <typename PolicyMass>
void Oracle::write(const Head& head, std::size_t count, const PolicyMass& policy_mass, Matrix& regret,
                   Matrix& gain) const {
  const auto place = std::lower_bound(head.counts.begin(), head.counts.end(), count) - head.counts.begin();
  const Eigen::RowVectorXd& best = head.best[at(place)];
  const double drawn = static_cast<double>(count) / static_cast<double>(head.order.size());
  for (Index column = 0; column < best.size(); ++column) {
    const Index row = column % tile_rows_;
    const Index query_head = head.reads.first_query_head + column / tile_rows_;
    regret(row, query_head) = static_cast<float>(best[column] - policy_mass(column, row, query_head));
    gain(row, query_head) = static_cast<float>(best[column] - drawn * head.all[column]);
  }
}

void Oracle::compare(std::size_t head, std::size_t count, const Matrix& retained_mass, Matrix& regret,
                     Matrix& gain) const {
  const Head& of = heads_[head];
  if (leaves_all(of, count, regret, gain)) return;
  const auto policy_mass = [&](Index column, Index row, Index query_head) {
    return static_cast<double>(retained_mass(row, query_head)) - of.decoded[column];
  };
  write(of, count, policy_mass, regret, gain);
}

void Oracle::compare(const Tile& tile, std::size_t head, std::span<const std::int32_t> kept, Matrix& regret,
                     Matrix& gain) const {
  const Head& of = heads_[head];
  if (leaves_all(of, kept.size(), regret, gain)) return;
  Eigen::RowVectorXd sum = no_mass(of);
  for (const std::int32_t row : kept) sum += attention_on(layer_, tile, of.reads, row);
  write(
      of, kept.size(), [&](Index column, Index, Index) { return sum[column]; }, regret, gain);
}

}  // namespace evictsim::sim
