#pragma once
/// \file
/// The small networks of learned policies: read from weights (docs/weights.md), evaluated in double precision, and
/// shared by all scorers that use the same weights.

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "models/matrix.h"
#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/parameters.h"
#include "policies/scores.h"
#include "traces/weights.h"

namespace evictsim::policies {

/// The parameter `weights` of a learned policy: "file.h5" or "file.h5:/group".
ParameterSpec weights_parameter();

/// The weights that the parameter `weights` names, opened once for all who hold them; none where it is empty. Throws
/// Error as traces::Weights::open does.
std::shared_ptr<const traces::Weights> open_weights(const Parameters& parameters);

/// What a policy needs that was given no weights; `what` says what they are ("the gates, rg").
Needs missing_weights(const char* policy, const char* what);

enum class Activation { relu, gelu, gelu_tanh, silu, tanh };
/// The one that the weights' attribute `activation` names, `fallback` where there is none. Throws Error(invalid_value)
/// for an attribute that names none.
Activation activation_of(const traces::Weights& weights, Activation fallback);
/// The parameter `activation` where it is not auto, else the above.
ParameterSpec activation_parameter(const std::string& fallback);
Activation activation_of(const Parameters& parameters, const traces::Weights& weights, Activation fallback);
/// In place: max(0, x); x Phi(x); its tanh approximation; x / (1 + exp(-x)); tanh(x).
void activate(Activation activation, models::MatrixDouble& values);

/// Tensors of one layer; what a layer does not have may stand beside the layers, shared by all.
class LayerTensorsSource {
 public:
  LayerTensorsSource(const traces::Weights& weights, int layer) : weights_(weights), layer_(layer) {}
  [[nodiscard]] bool has(const std::string& name) const;
  /// Of that shape, where -1 is any extent; `meaning` names the extents. Throws Error (missing_data, wrong_shape).
  [[nodiscard]] traces::Tensor read(const std::string& name, const std::vector<Index>& shape,
                                    const char* meaning) const;
  [[nodiscard]] const traces::Weights& weights() const { return weights_; }
  [[nodiscard]] int layer() const { return layer_; }

 private:
  const traces::Weights& weights_;
  int layer_;
};

/// y = W x (+ b). Weights stay float32, products and sums are double.
class Linear {
 public:
  enum class Bias { none, required, where_given };
  /// Reads `name`.weight [outputs, inputs] and `name`.bias [outputs] (names alone where `name` is empty). -1 outputs:
  /// as many as there are.
  Linear(const LayerTensorsSource& source, const std::string& name, Index inputs, Index outputs, Bias bias);
  /// `weight` [outputs, inputs], row-major; `bias` [outputs] or empty.
  Linear(std::span<const float> weight, Index inputs, std::span<const float> bias);

  [[nodiscard]] Index outputs() const { return weight_.rows(); }
  /// Rows in, rows out: [n, inputs] -> [n, outputs].
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& rows) const;

 private:
  models::Matrix weight_;
  Eigen::RowVectorXd bias_;  ///< empty: none
};

/// Linear, activation, linear.
struct TwoLayers {
  Linear first;
  Activation activation = Activation::relu;
  Linear second;
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& rows) const;
};

/// One object per key for all who hold it: scorers of several budgets share what they read. `make` is called when
/// nobody holds one.
template <typename Value>
class SharedByKey {
 public:
  template <typename Make>
  std::shared_ptr<const Value> get(const std::string& key, const Make& make) {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<const Value>& held = held_[key];
    std::shared_ptr<const Value> value = held.lock();
    if (!value) {
      value = make();
      held = value;
    }
    return value;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Value>> held_;
};

/// A layer's network of type Network, shared by all who name the same weights, variant, layer and model shape. Network
/// is made of (LayerTensorsSource, Geometry, variant).
template <typename Network, typename Variant>
std::shared_ptr<const Network> shared_network(const traces::Weights& weights, const LayerView& layer,
                                              const std::string& variant_name, const Variant& variant) {
  static SharedByKey<Network> networks;
  const models::Geometry& shape = layer.geometry();
  std::string key = weights.location() + '\n' + variant_name;
  for (const int number :
       {layer.layer(), shape.num_query_heads, shape.num_kv_heads, shape.head_dim, shape.hidden_size}) {
    key += '\n' + std::to_string(number);
  }
  return networks.get(
      key, [&] { return std::make_shared<const Network>(LayerTensorsSource(weights, layer.layer()), shape, variant); });
}

/// Token rows [first, first + count).
struct RowRange {
  Index first = 0;
  Index count = 0;
};

/// Inputs of networks, one row per token row. The rows must be resident in every head, as rows are that have not been
/// through a cut.
/// KV heads in order, each [k after RoPE (d), v (d)]: [count, H_kv * 2d].
models::MatrixDouble keys_and_values(const CacheView& cache, RowRange rows);
/// k after RoPE, or v, of one head: [count, d].
models::MatrixDouble keys_of(const CacheView& cache, int head, RowRange rows);
models::MatrixDouble values_of(const CacheView& cache, int head, RowRange rows);
/// What enters the attention block behind its norm: [count, hidden_size].
models::MatrixDouble inputs_of(const CacheView& cache, RowRange rows);

/// A number per token row and KV head that is fixed when the row arrives.
class PerRow {
 public:
  /// Adds the rows that came since the last call, in blocks; `evaluate(RowRange)` gives [count, heads]. A view that
  /// begins at another token (a part of the cache, as at_arrival and chunkwise score) starts anew.
  template <typename Evaluate>
  void update(const CacheView& cache, const Evaluate& evaluate) {
    const std::int32_t first = cache.positions().front();
    if (first != first_position_) values_.resize(0, 0);
    first_position_ = first;
    while (values_.rows() < cache.seen()) {
      const RowRange rows{values_.rows(), std::min(block_rows, cache.seen() - values_.rows())};
      const models::MatrixDouble added = evaluate(rows);
      values_.conservativeResize(rows.first + rows.count, added.cols());
      values_.bottomRows(rows.count) = added;
    }
  }
  [[nodiscard]] double operator()(std::int32_t row, int head) const { return values_(row, head); }
  /// The numbers as scores of the resident entries.
  void write(const LayerView& layer, LayerScores& scores) const {
    for (int head = 0; head < layer.heads(); ++head) {
      const auto entries = layer.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        scores.of(head)[place] = static_cast<float>(values_(entries[place], head));
      }
    }
  }

 private:
  static constexpr Index block_rows = 512;
  models::MatrixDouble values_;
  std::int32_t first_position_ = 0;  ///< of the first row, which positions tell apart
};

}  // namespace evictsim::policies
