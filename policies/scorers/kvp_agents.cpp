#include <vector>

#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// The agents of one layer: a network per KV head on [k after RoPE, v, position].
class Agents {
 public:
  Agents(const LayerTensorsSource& source, const models::Geometry& shape, Activation activation) {
    const Index heads = shape.num_kv_heads;
    const Index inputs = 2 * shape.head_dim + 1;
    const traces::Tensor first = source.read("fc1.weight", {heads, -1, inputs}, "[H_kv, width, 2d + 1]");
    const auto width = static_cast<Index>(first.shape[1]);
    const traces::Tensor first_bias = source.read("fc1.bias", {heads, width}, "[H_kv, width]");
    const traces::Tensor second = source.read("fc2.weight", {heads, 1, width}, "[H_kv, 1, width]");
    const traces::Tensor second_bias = source.read("fc2.bias", {heads, 1}, "[H_kv, 1]");
    for (Index head = 0; head < heads; ++head) {
      networks_.push_back({Linear(part(first, head, heads), inputs, part(first_bias, head, heads)), activation,
                           Linear(part(second, head, heads), width, part(second_bias, head, heads))});
    }
  }
  /// [n, 2d + 1] -> [n, 1].
  [[nodiscard]] models::MatrixDouble operator()(int head, const models::MatrixDouble& inputs) const {
    return networks_[static_cast<std::size_t>(head)](inputs);
  }

 private:
  static std::span<const float> part(const traces::Tensor& tensor, Index head, Index heads) {
    const std::size_t size = tensor.data.size() / static_cast<std::size_t>(heads);
    return std::span(tensor.data).subspan(static_cast<std::size_t>(head) * size, size);
  }
  std::vector<TwoLayers> networks_;
};

class KvpAgents : public Scorer {
 public:
  explicit KvpAgents(const Parameters& parameters)
      : weights_(open_weights(parameters)), activation_name_(parameters.choice("activation")) {
    if (weights_) activation_ = activation_of(parameters, *weights_, Activation::relu);
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (!agents_) agents_ = shared_network<Agents>(*weights_, cache, activation_name_, activation_);
    ranks_.update(cache, [&](RowRange rows) { return evaluate(cache, rows); });
    ranks_.write(cache, scores);
  }

  [[nodiscard]] Needs needs() const override {
    return weights_ ? Needs{} : missing_weights("kvp", "the agents of the model");
  }

 private:
  [[nodiscard]] models::MatrixDouble evaluate(const CacheView& cache, RowRange rows) const {
    const Index width = cache.geometry().head_dim;
    models::MatrixDouble ranks(rows.count, cache.heads());
    models::MatrixDouble inputs(rows.count, 2 * width + 1);
    for (int head = 0; head < cache.heads(); ++head) {
      inputs.leftCols(width) = keys_of(cache, head, rows);
      inputs.middleCols(width, width) = values_of(cache, head, rows);
      for (Index r = 0; r < rows.count; ++r) {
        inputs(r, 2 * width) = cache.positions()[static_cast<std::size_t>(rows.first + r)];
      }
      ranks.col(head) = (*agents_)(head, inputs);
    }
    return ranks;
  }

  std::shared_ptr<const traces::Weights> weights_;
  std::string activation_name_;
  Activation activation_ = Activation::relu;
  std::shared_ptr<const Agents> agents_;
  PerRow ranks_;
};

const Registration registration({.name = "kvp_agents",
                                 .sentence = "Scores an entry by its head's network on key, value and position.",
                                 .citation = "KVP, arXiv 2602.10238 (no code published)",
                                 .parameters = kvp_agent_parameters(),
                                 .make = MakeScorer([](const Parameters& parameters) {
                                   return std::make_unique<KvpAgents>(parameters);
                                 })});

}  // namespace
}  // namespace evictsim::policies
