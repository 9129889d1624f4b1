#include <algorithm>
#include <numeric>

#include "policies/layer_networks.h"
#include "policies/registry.h"
#include "policies/rotation.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// The retaining heads of one layer: linear, activation, linear on queries and keys before RoPE and values of all
/// heads.
class RetainingHeads {
 public:
  RetainingHeads(const LayerTensorsSource& source, const models::Geometry& shape, Activation activation)
      : first_(source, "fc1", Index{shape.num_query_heads + 2 * shape.num_kv_heads} * shape.head_dim, -1,
               Linear::Bias::where_given),
        activation_(activation),
        second_(source, "fc2", first_.outputs(), shape.num_kv_heads, Linear::Bias::where_given) {}
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& inputs) const {
    return TwoLayers{first_, activation_, second_}(inputs);
  }

 private:
  Linear first_;
  Activation activation_;
  Linear second_;
};

class Locret : public Scorer {
 public:
  explicit Locret(const Parameters& parameters)
      : weights_(open_weights(parameters)),
        chunk_(parameters.integer("chunk")),
        stabilizers_(parameters.integer("stabilizers")),
        local_(parameters.integer("local")) {
    if (weights_) activation_ = activation_of(*weights_, Activation::silu);
  }

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    if (!heads_) heads_ = shared_network<RetainingHeads>(*weights_, cache, "locret", activation_);
    importance_.update(cache, [&](RowRange rows) { return (*heads_)(inputs(cache, rows)); });
    importance_.write(cache, scores);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const Index before_local = count_before(entries, cache.seen() - local_);
      scores.protect(head, before_local, std::ssize(entries));
      // The prompt was filled in chunks, with a cut behind each; the last of these is the cut that is due now.
      if (std::ssize(entries) == cache.seen()) {
        cut_chunks(head, before_local, std::max<Index>(0, static_cast<Index>(budget.entries) - local_), scores);
      }
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("locret", "the retaining heads of the model");
    needs.all_queries = true;
    return needs;
  }

 private:
  static models::MatrixDouble inputs(const CacheView& cache, RowRange rows) {
    const models::Geometry& shape = cache.geometry();
    const Index width = shape.head_dim;
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows.count));
    std::iota(tokens.begin(), tokens.end(), static_cast<std::int32_t>(rows.first));
    const InverseRotation rotation(cache, tokens);
    const Index first_query = count_before(cache.query_rows(), rows.first);
    models::MatrixDouble inputs(rows.count, (shape.num_query_heads + 2 * shape.num_kv_heads) * width);
    Index column = 0;
    const auto add = [&](const models::MatrixDouble& values) {
      inputs.middleCols(column, width) = values;
      column += width;
    };
    for (int head = 0; head < shape.num_query_heads; ++head) {
      models::MatrixDouble queries = cache.queries(head).middleRows(first_query, rows.count).cast<double>();
      rotation.apply(cache.rope(), queries);
      add(queries);
    }
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      models::MatrixDouble keys = keys_of(cache, head, rows);
      rotation.apply(cache.rope(), keys);
      add(keys);
    }
    for (int head = 0; head < shape.num_kv_heads; ++head) add(values_of(cache, head, rows));
    return inputs;
  }

  /// Drops what the cuts behind all chunks but the last leave out of the first `rows` entries: each keeps the newest
  /// `stabilizers` of what is there and the best others, `room` in all.
  void cut_chunks(int head, Index rows, Index room, LayerScores& scores) const {
    std::vector<Index> held;
    for (Index end = chunk_; end < rows; end += chunk_) {
      for (Index place = end - chunk_; place < end; ++place) held.push_back(place);
      const Index fixed = std::min(stabilizers_, std::ssize(held));
      if (std::ssize(held) <= room) continue;
      const auto is_better = [&](Index a, Index b) {
        const float score_a = scores.of(head)[static_cast<std::size_t>(a)];
        const float score_b = scores.of(head)[static_cast<std::size_t>(b)];
        return score_a != score_b ? score_a > score_b : a < b;
      };
      // Newest first, then the others by score.
      std::reverse(held.begin(), held.end());
      std::sort(held.begin() + fixed, held.end(), is_better);
      for (auto place = held.begin() + room; place != held.end(); ++place) scores.drop(head, *place);
      held.resize(static_cast<std::size_t>(room));
      std::sort(held.begin(), held.end());
    }
  }

  std::shared_ptr<const traces::Weights> weights_;
  Index chunk_;
  Index stabilizers_;
  Index local_;
  Activation activation_ = Activation::silu;
  std::shared_ptr<const RetainingHeads> heads_;
  PerRow importance_;
};

const Registration registration(
    {.name = "locret",
     .sentence = "Keeps the entries that a network on query, key and value scores highest, chunk by chunk.",
     .citation = "Locret, arXiv 2410.01805; huangyuxiang03/Locret",
     .parameters = {weights_parameter(), integer_parameter("chunk", "3072", 1, 1e9, "prompt tokens between two cuts"),
                    integer_parameter("stabilizers", "2500", 0, 1e9,
                                      "newest entries that stay at all cuts but the last"),
                    integer_parameter("local", "100", 0, 1e9, "last tokens that stay")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Locret>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
