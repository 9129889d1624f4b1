#pragma once
/// \file
/// Allocators whose heads compete in one pool, of a layer or of all layers.

#include <algorithm>
#include <span>
#include <vector>

#include "policies/allocator.h"
#include "policies/parameters.h"

namespace evictsim::policies {

/// The parameter `scope`: heads of all layers unless given.
inline ParameterSpec pool_scope_parameter() {
  return choice_parameter("scope", {"model", "layer"}, "heads of all layers, or of one layer");
}

class PoolAllocator : public Allocator {
 public:
  explicit PoolAllocator(const Parameters& parameters) : pools_layers_(parameters.choice("scope") == "model") {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const final { share({&request, 1}, counts); }
  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const final {
    if (!pools_layers_) return Allocator::allocate_model(layers, counts);
    std::vector<Index> all;
    for (const std::vector<Index>& layer : counts) all.resize(all.size() + layer.size());
    share(layers, all);
    auto next = all.begin();
    for (std::vector<Index>& layer : counts) {
      std::copy_n(next, layer.size(), layer.begin());
      next += std::ssize(layer);
    }
  }
  [[nodiscard]] AllocationScope scope() const final {
    return pools_layers_ ? AllocationScope::model_each_cut : AllocationScope::layer;
  }

 protected:
  /// Sets `counts` of the heads of all `layers`, layer by layer.
  virtual void share(std::span<const AllocationRequest> layers, std::span<Index> counts) const = 0;

 private:
  bool pools_layers_;
};

}  // namespace evictsim::policies
