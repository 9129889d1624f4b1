#include "policies/layer_networks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <stdexcept>

#include "policies/scoring.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr std::array activation_names = {"relu", "gelu", "gelu_tanh", "silu", "tanh"};

std::optional<Activation> activation_named(const std::string& name) {
  for (std::size_t i = 0; i < activation_names.size(); ++i) {
    if (name == activation_names[i]) return static_cast<Activation>(i);
  }
  // transformers' names of the same functions.
  if (name == "swish") return Activation::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::gelu_tanh;
  return std::nullopt;
}

/// Place of row `first` in a head.
Index place_of(const CacheView& cache, int head, RowRange rows) {
  const auto entries = cache.entries(head);
  const Index place = count_before(entries, rows.first);
  if (place + rows.count > std::ssize(entries) ||
      entries[static_cast<std::size_t>(place + rows.count - 1)] != rows.first + rows.count - 1) {
    throw std::logic_error("a row was cut before the network saw it");
  }
  return place;
}

}  // namespace

ParameterSpec weights_parameter() {
  return text_parameter("weights", "HDF5 file with the weights, or file:/group (docs/weights.md)");
}

std::shared_ptr<const traces::Weights> open_weights(const Parameters& parameters) {
  static SharedByKey<traces::Weights> files;
  const std::string& location = parameters.words("weights");
  if (location.empty()) return nullptr;
  return files.get(location, [&] { return traces::Weights::open(location); });
}

Needs missing_weights(const char* policy, const char* what) {
  return {.parameters = {fmt::format("weights: {}, {}(weights=FILE:/GROUP), see docs/weights.md", what, policy)}};
}

ParameterSpec activation_parameter(const std::string& fallback) {
  std::vector<std::string> choices = {"auto"};
  choices.insert(choices.end(), activation_names.begin(), activation_names.end());
  return choice_parameter("activation", choices,
                          "of the hidden layer; auto: the weights' attribute `activation`, else " + fallback);
}

Activation activation_of(const traces::Weights& weights, Activation fallback) {
  const std::optional<std::string> attribute = weights.attribute("activation");
  if (!attribute) return fallback;
  if (const auto activation = activation_named(*attribute)) return *activation;
  throw Error(ErrorCode::invalid_value, fmt::format("must be one of {}", fmt::join(activation_names, ", ")),
              {.file = weights.location(), .dataset = "activation", .value = *attribute});
}

Activation activation_of(const Parameters& parameters, const traces::Weights& weights, Activation fallback) {
  const std::string& choice = parameters.choice("activation");
  return choice == "auto" ? activation_of(weights, fallback) : *activation_named(choice);
}

void activate(Activation activation, models::MatrixDouble& values) {
  const auto apply = [&](auto function) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] = function(values.data()[i]);
  };
  switch (activation) {
    case Activation::relu:
      return apply([](double x) { return x > 0 ? x : 0.0; });
    case Activation::gelu:
      return apply([](double x) { return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2)); });
    case Activation::gelu_tanh:
      return apply([](double x) {
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      });
    case Activation::silu:
      return apply([](double x) { return x / (1 + std::exp(-x)); });
    case Activation::tanh:
      return apply([](double x) { return std::tanh(x); });
  }
}

bool LayerTensorsSource::has(const std::string& name) const {
  return weights_.has(layer_, name) || weights_.read_shared(name).has_value();
}

traces::Tensor LayerTensorsSource::read(const std::string& name, const std::vector<Index>& shape,
                                        const char* meaning) const {
  std::optional<traces::Tensor> tensor;
  if (!weights_.has(layer_, name)) tensor = weights_.read_shared(name);
  if (!tensor) tensor = weights_.read(layer_, name);
  bool fits = tensor->shape.size() == shape.size();
  for (std::size_t axis = 0; fits && axis < shape.size(); ++axis) {
    fits = shape[axis] < 0 ? tensor->shape[axis] > 0 : tensor->shape[axis] == static_cast<std::size_t>(shape[axis]);
  }
  if (fits) return *std::move(tensor);
  std::vector<std::string> extents;
  for (const Index extent : shape) extents.push_back(extent < 0 ? "any" : std::to_string(extent));
  throw Error(ErrorCode::wrong_shape, fmt::format("must be {} = [{}]", meaning, fmt::join(extents, ", ")),
              {.file = weights_.location(),
               .dataset = traces::layer_name(layer_) + "/" + name,
               .value = fmt::format("[{}]", fmt::join(tensor->shape, ", "))});
}

Linear::Linear(const LayerTensorsSource& source, const std::string& name, Index inputs, Index outputs, Bias bias) {
  const std::string prefix = name.empty() ? name : name + ".";
  const traces::Tensor weight = source.read(prefix + "weight", {outputs, inputs}, "[outputs, inputs]");
  weight_ = models::view(weight.data.data(), static_cast<Index>(weight.shape[0]), inputs);
  if (bias == Bias::none || (bias == Bias::where_given && !source.has(prefix + "bias"))) return;
  const traces::Tensor added = source.read(prefix + "bias", {weight_.rows()}, "[outputs]");
  bias_ = models::view(added.data.data(), 1, weight_.rows()).cast<double>();
}

Linear::Linear(std::span<const float> weight, Index inputs, std::span<const float> bias)
    : weight_(models::view(weight.data(), std::ssize(weight) / inputs, inputs)) {
  if (!bias.empty()) bias_ = models::view(bias.data(), 1, std::ssize(bias)).cast<double>();
}

models::MatrixDouble Linear::operator()(const models::MatrixDouble& rows) const {
  const models::MatrixDouble weight = weight_.cast<double>();
  models::MatrixDouble out(rows.rows(), weight.rows());
  out.noalias() = rows * weight.transpose();
  if (bias_.size() > 0) out.rowwise() += bias_;
  return out;
}

models::MatrixDouble TwoLayers::operator()(const models::MatrixDouble& rows) const {
  models::MatrixDouble hidden = first(rows);
  activate(activation, hidden);
  return second(hidden);
}

models::MatrixDouble keys_of(const CacheView& cache, int head, RowRange rows) {
  return cache.keys(head).middleRows(place_of(cache, head, rows), rows.count).cast<double>();
}

models::MatrixDouble values_of(const CacheView& cache, int head, RowRange rows) {
  return cache.values(head).middleRows(place_of(cache, head, rows), rows.count).cast<double>();
}

models::MatrixDouble keys_and_values(const CacheView& cache, RowRange rows) {
  const Index width = cache.geometry().head_dim;
  models::MatrixDouble inputs(rows.count, 2 * width * cache.heads());
  for (int head = 0; head < cache.heads(); ++head) {
    inputs.middleCols(2 * width * head, width) = keys_of(cache, head, rows);
    inputs.middleCols(2 * width * head + width, width) = values_of(cache, head, rows);
  }
  return inputs;
}

models::MatrixDouble inputs_of(const CacheView& cache, RowRange rows) {
  return cache.layer_input().middleRows(rows.first, rows.count).cast<double>();
}

}  // namespace evictsim::policies
