#include "policies/placement.h"

#include "traces/error.h"

namespace evictsim::policies {
namespace {

[[noreturn]] void undeclared() {
  throw Error(ErrorCode::policy_failure, "packets must be declared by Placement::ingest and Needs::packets");
}

models::MatrixView no_rows(const PlacementView& layer) {
  return models::view(nullptr, 0, layer.hot().geometry().head_dim);
}

}  // namespace

const PacketLayer& PlacementView::packets() const { undeclared(); }

std::span<const std::int32_t> PlacementView::kept_packet_rows(int) const { undeclared(); }

models::MatrixView Placement::extra_keys(const PlacementView& layer, int) const { return no_rows(layer); }

models::MatrixView Placement::extra_values(const PlacementView& layer, int) const { return no_rows(layer); }

}  // namespace evictsim::policies
