#include "traces/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "traces/error.h"
#include "traces/hdf5_handle.h"
#include "traces/isolation.h"
#include "traces/trace_file.h"

namespace evictsim::traces {

using hdf5::Guard;
using hdf5::Node;

struct Weights::Impl {
  std::string location;
  std::vector<Node> opened;  ///< from the file down: it closes with the first of them
  std::vector<int> layers;

  [[nodiscard]] const Node& group() const { return opened.back(); }

  [[nodiscard]] Tensor read(const Node& parent, const std::string& name) const {
    Node dataset;
    {
      const Guard guard;
      if (!parent.has(name)) {
        throw parent.error(ErrorCode::missing_data,
                           fmt::format("needs {}; it holds {}", name, fmt::join(parent.names(), ", ")));
      }
      dataset = parent.dataset(name);
    }
    Tensor tensor = read_tensor(dataset);
    if (!std::all_of(tensor.data.begin(), tensor.data.end(), [](float value) { return std::isfinite(value); })) {
      throw dataset.error(ErrorCode::invalid_value, "must be finite, and holds NaN or infinity");
    }
    return tensor;
  }

  [[nodiscard]] Tensor shaped(Tensor tensor, const std::string& name, const std::vector<std::size_t>& shape,
                              const char* meaning) const {
    if (tensor.shape != shape) {
      throw Error(ErrorCode::wrong_shape, fmt::format("must be {} = [{}]", meaning, fmt::join(shape, ", ")),
                  {.file = location, .dataset = name, .value = fmt::format("[{}]", fmt::join(tensor.shape, ", "))});
    }
    return tensor;
  }

  [[nodiscard]] Node layer_group(int layer) const {
    const Guard guard;
    if (!std::binary_search(layers.begin(), layers.end(), layer)) {
      throw group().error(ErrorCode::missing_data,
                          fmt::format("has no weights for layer {}; it has layers {}", layer, fmt::join(layers, ", ")));
    }
    return group().group(layer_name(layer));
  }
};

namespace {

/// "file.h5:/group" in two; the group is "/" where none is named.
std::pair<std::string, std::string> split_location(const std::string& location) {
  const std::size_t colon = location.rfind(":/");
  if (colon == std::string::npos || std::filesystem::exists(location)) return {location, "/"};
  return {location.substr(0, colon), location.substr(colon + 1)};
}

/// `file` and the groups of `path` below it. The file closes, and everything in it, when its node goes.
std::vector<Node> descend(Node file, const std::string& path) {
  std::vector<Node> opened;
  opened.push_back(std::move(file));
  std::size_t first = 0;
  while (first < path.size()) {
    const std::size_t last = std::min(path.find('/', first), path.size());
    if (last > first) opened.push_back(opened.back().group(path.substr(first, last - first)));
    first = last + 1;
  }
  return opened;
}

std::vector<int> layers_in(const Node& group) {
  std::vector<int> layers;
  for (const std::string& name : group.names()) {
    constexpr std::string_view prefix = "layer_";
    const std::string_view digits = std::string_view(name).substr(std::min(name.size(), prefix.size()));
    const bool numbered = name.starts_with(prefix) && !digits.empty() && digits.size() < 7 &&
                          digits.find_first_not_of("0123456789") == std::string_view::npos;
    if (numbered && name == layer_name(std::stoi(std::string(digits))))
      layers.push_back(std::stoi(std::string(digits)));
  }
  std::sort(layers.begin(), layers.end());
  return layers;
}

}  // namespace

std::shared_ptr<const Weights> Weights::open(const std::string& location, const std::string& of_all_layers) {
  const auto [file, path] = split_location(location);
  if (!std::filesystem::is_regular_file(file)) {
    throw Error(ErrorCode::file_not_found, "weights must be an HDF5 file, or file:/group", {.file = location});
  }
  const std::uint64_t size = std::filesystem::file_size(file);
  const Guard guard;
  rehearse(file, size, [&, &name = file, &group = path] {
    const std::vector<Node> opened = descend(Node::open_file(name, size), group);
    const Node& node = opened.back();
    for (const int layer : layers_in(node)) {
      const std::string child = layer_name(layer);
      if (node.has_group(child)) static_cast<void>(node.group(child).names());
    }
  });
  auto impl = std::make_unique<Impl>();
  impl->location = location;
  impl->opened = descend(Node::open_file(file, size), path);
  impl->layers = layers_in(impl->group());
  if (impl->layers.empty() && (of_all_layers.empty() || !impl->group().has(of_all_layers))) {
    throw impl->group().error(ErrorCode::missing_data,
                              fmt::format("holds no group layer_000, layer_001, ... of weights{}{}",
                                          of_all_layers.empty() ? "" : ", and no dataset ", of_all_layers));
  }
  return std::shared_ptr<const Weights>(new Weights(std::move(impl)));
}

Weights::Weights(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Weights::~Weights() {
  const Guard guard;
  impl_.reset();
}

const std::string& Weights::location() const { return impl_->location; }
const std::vector<int>& Weights::layers() const { return impl_->layers; }

bool Weights::has(int layer, const std::string& name) const {
  const Guard guard;
  return std::binary_search(impl_->layers.begin(), impl_->layers.end(), layer) &&
         impl_->group().has_group(layer_name(layer)) && impl_->layer_group(layer).has(name);
}

Tensor Weights::read(int layer, const std::string& name) const { return impl_->read(impl_->layer_group(layer), name); }

Tensor Weights::read(int layer, const std::string& name, const std::vector<std::size_t>& shape,
                     const char* meaning) const {
  return impl_->shaped(read(layer, name), layer_name(layer) + "/" + name, shape, meaning);
}

Tensor Weights::read_layer_dataset(int layer, const std::vector<std::size_t>& shape, const char* meaning) const {
  const std::string name = layer_name(layer);
  return impl_->shaped(impl_->read(impl_->group(), name), name, shape, meaning);
}

std::optional<Tensor> Weights::read_shared(const std::string& name) const {
  {
    const Guard guard;
    if (!impl_->group().has(name)) return std::nullopt;
  }
  return impl_->read(impl_->group(), name);
}

std::optional<std::string> Weights::attribute(const std::string& name) const {
  const Guard guard;
  if (!impl_->group().has_attribute(name)) return std::nullopt;
  return impl_->group().attribute_as_text(name);
}

}  // namespace evictsim::traces
