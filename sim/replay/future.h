#pragma once
/// \file
/// What oracles see of one layer: the whole sequence, and the attention that the prompt will receive.

#include "policies/cache_view.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/oracle.h"

namespace evictsim::sim {

class Future final : public policies::FutureView {
 public:
  /// `mass` may be empty where no oracle asks.
  Future(const LayerData& layer, const FutureMass& mass) : layer_(layer), mass_(mass) {}
  [[nodiscard]] std::span<const double> future_mass(int query_head) const override {
    return mass_[static_cast<std::size_t>(query_head)];
  }
  [[nodiscard]] Index length() const override { return layer_.length(); }
  [[nodiscard]] MatrixView keys(int kv_head) const override { return layer_.keys(kv_head, layer_.length()); }
  [[nodiscard]] MatrixView values(int kv_head) const override { return layer_.values(kv_head, layer_.length()); }
  [[nodiscard]] std::span<const std::int32_t> query_rows() const override { return layer_.query_rows(); }
  [[nodiscard]] MatrixView queries(int query_head) const override { return layer_.queries(query_head); }

 private:
  const LayerData& layer_;
  const FutureMass& mass_;
};

}  // namespace evictsim::sim
