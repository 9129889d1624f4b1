#include <algorithm>
#include <vector>

#include "policies/block_walk.h"
#include "policies/exact_attention.h"
#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Columns that a statistic takes of a group: the authors slice the axis of query heads where the paper means queries.
Index last_heads(Index group, Index count) { return std::min(group, count); }

/// The judge of one layer, with weights of its own per KV head: [n, features] -> eviction priority [n].
class Judge {
 public:
  struct Variant {};

  Judge(const LayerTensorsSource& source, const models::Geometry& shape, const Variant&) {
    const Index heads = shape.num_kv_heads;
    const Index group = shape.group_size();
    features_ = 2 * shape.head_dim + 5 * group + last_heads(group, 16) + last_heads(group, 8) + last_heads(group, 32);
    const traces::Tensor first = source.read("fc1.weight", {heads, features_, -1}, "[H_kv, features, width]");
    const auto width = static_cast<Index>(first.shape[2]);
    const traces::Tensor first_bias = source.read("fc1.bias", {heads, width}, "[H_kv, width]");
    const traces::Tensor second = source.read("fc2.weight", {heads, width, 1}, "[H_kv, width, 1]");
    const traces::Tensor second_bias = source.read("fc2.bias", {heads, 1}, "[H_kv, 1]");
    for (Index head = 0; head < heads; ++head) {
      Head& own = heads_.emplace_back();
      own.first = models::view(first.data.data() + head * features_ * width, features_, width).cast<double>();
      own.first_bias = models::view(first_bias.data.data() + head * width, 1, width).cast<double>();
      own.second = models::view(second.data.data() + head * width, width, 1).cast<double>();
      own.second_bias = second_bias.data[static_cast<std::size_t>(head)];
    }
  }

  [[nodiscard]] Eigen::VectorXd operator()(int head, const models::MatrixDouble& features) const {
    const Head& own = heads_[static_cast<std::size_t>(head)];
    models::MatrixDouble hidden = features * own.first;
    hidden.rowwise() += own.first_bias;
    activate(Activation::gelu, hidden);
    return (hidden * own.second).array() + own.second_bias;
  }
  [[nodiscard]] Index features() const { return features_; }

 private:
  struct Head {
    models::MatrixDouble first;
    Eigen::RowVectorXd first_bias;
    models::MatrixDouble second;
    double second_bias = 0;
  };
  Index features_ = 0;
  std::vector<Head> heads_;
};

/// What the entries of a head have received so far, by token row and query head of the group: [T, G].
struct Received {
  models::MatrixDouble sum, decayed;
};

class ForesightKvPriority : public Scorer {
 public:
  explicit ForesightKvPriority(const Parameters& parameters)
      : weights_(open_weights(parameters)), every_(parameters.integer("every")), decay_(parameters.real("decay")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    if (!judge_) judge_ = shared_network<Judge>(*weights_, cache, "foresightkv", Judge::Variant{});
    received_.resize(static_cast<std::size_t>(cache.heads()));
    const BlockPlan plan = plan_blocks(every_, static_cast<Index>(budget.entries));
    for (int head = 0; head < cache.heads(); ++head) {
      // Nothing was cut yet: the walk starts anew, perhaps for another budget.
      if (std::ssize(cache.entries(head)) == cache.seen()) received_[static_cast<std::size_t>(head)] = {};
      walk_blocks(cache, head, plan, scores, [&](std::span<const Index> places, Index older, Index seen) {
        const Eigen::VectorXd priority = priorities(cache, head, plan, places, older, seen);
        std::vector<double> values(static_cast<std::size_t>(older));
        for (Index i = 0; i < older; ++i) values[static_cast<std::size_t>(i)] = -priority[i];
        return values;
      });
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("foresightkv", "the judge of the model");
    needs.all_queries = true;
    needs.decode_attention = true;
    return needs;
  }

 private:
  /// Keys or values of resident entries, [places, d].
  static models::MatrixDouble gather(const models::MatrixView& all, std::span<const Index> places) {
    models::MatrixDouble rows(std::ssize(places), all.cols());
    for (Index i = 0; i < rows.rows(); ++i) rows.row(i) = all.row(places[static_cast<std::size_t>(i)]).cast<double>();
    return rows;
  }

  /// Attention of token rows [first, last) over `keys`, of which the rows [first, last) are the last ones.
  static models::MatrixDouble attention(const CacheView& cache, int query_head, Index first, Index last,
                                        const models::MatrixDouble& keys) {
    const Index begin = count_before(cache.query_rows(), first);
    const Index count = count_before(cache.query_rows(), last) - begin;
    std::vector<Index> visible;
    for (Index r = begin; r < begin + count; ++r) {
      visible.push_back(keys.rows() - (last - 1 - cache.query_rows()[static_cast<std::size_t>(r)]));
    }
    const models::MatrixDouble queries = cache.queries(query_head).middleRows(begin, count).cast<double>();
    return exact_attention(queries, keys, visible, cache.geometry());
  }

  Eigen::VectorXd priorities(const CacheView& cache, int head, const BlockPlan& plan, std::span<const Index> places,
                             Index older, Index seen) {
    const auto entries = cache.entries(head);
    const auto row_of = [&](Index i) { return entries[static_cast<std::size_t>(places[static_cast<std::size_t>(i)])]; };
    const QueryHeads group = cache.query_heads(head);
    const Index width = cache.geometry().head_dim;
    const models::MatrixDouble keys = gather(cache.keys(head), places);
    Received& received = received_[static_cast<std::size_t>(head)];
    if (received.sum.rows() == 0) start(cache, group, plan, keys, received);
    grow(received, seen);

    models::MatrixDouble features(older, judge_->features());
    features.leftCols(width) = keys.topRows(older);
    features.middleCols(width, width) = gather(cache.values(head), places.first(static_cast<std::size_t>(older)));
    const Index columns = group.count;
    const Index statistics = 2 * width;
    for (Index member = 0; member < columns; ++member) {
      const models::MatrixDouble weights =
          attention(cache, group.first + static_cast<int>(member), seen - plan.block, seen, keys);
      const Eigen::RowVectorXd sum = weights.colwise().sum();
      for (Index i = 0; i < std::ssize(places); ++i) {
        const std::int32_t row = row_of(i);
        received.sum(row, member) += sum[i];
        received.decayed(row, member) = received.decayed(row, member) * decay_ + sum[i];
      }
      features.col(statistics + member) = weights.colwise().maxCoeff().head(older);
      features.col(statistics + columns + member) = weights.colwise().minCoeff().head(older);
      features.col(statistics + 2 * columns + member) = sum.head(older);
      Index next = statistics + 3 * columns;
      for (const Index count : {Index{16}, Index{8}, Index{32}}) {
        const Index taken = last_heads(columns, count);
        if (member >= columns - taken) features.col(next + member - (columns - taken)) = sum.head(older);
        next += taken;
      }
      for (Index i = 0; i < older; ++i) {
        features(i, next + member) = received.sum(row_of(i), member);
        features(i, next + columns + member) = received.decayed(row_of(i), member);
      }
    }
    return (*judge_)(head, features);
  }

  /// The running sums start from the attention of the first entries among themselves.
  static void start(const CacheView& cache, QueryHeads group, const BlockPlan& plan, const models::MatrixDouble& keys,
                    Received& received) {
    grow(received, plan.kept, group.count);
    for (int member = 0; member < group.count; ++member) {
      received.sum.col(member) =
          attention(cache, group.first + member, 0, plan.kept, keys.topRows(plan.kept)).colwise().sum();
    }
    received.decayed = received.sum;
  }

  static void grow(Received& received, Index rows, Index columns = -1) {
    const Index before = received.sum.rows();
    const Index width = columns < 0 ? received.sum.cols() : columns;
    for (models::MatrixDouble* values : {&received.sum, &received.decayed}) {
      values->conservativeResize(rows, width);
      values->bottomRows(rows - before).setZero();
    }
  }

  std::shared_ptr<const traces::Weights> weights_;
  Index every_;
  double decay_;
  std::shared_ptr<const Judge> judge_;
  std::vector<Received> received_;  ///< [head]
};

const Registration registration(
    {.name = "foresightkv_priority",
     .sentence = "Drops, block by block, what a network on key, value and the attention received so far puts first.",
     .citation = "ForesightKV, arXiv 2602.03203; RUCAIBox/ForesightKV supervised_training/cache.py",
     .parameters = foresightkv_parameters(),
     .make = MakeScorer([](const Parameters& parameters) {
       return std::make_unique<ForesightKvPriority>(parameters);
     })});

}  // namespace
}  // namespace evictsim::policies
