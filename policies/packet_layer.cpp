#include "policies/packet_layer.h"

namespace evictsim::policies {

using models::Index;

PacketLayer::PacketLayer(const models::Geometry& geometry, const traces::Packets& layout,
                         const traces::PacketTensors& tensors)
    : layout_(layout),
      tensors_(tensors),
      kv_heads_(geometry.num_kv_heads),
      query_heads_(geometry.num_query_heads),
      head_dim_(geometry.head_dim),
      rows_(traces::total_rows(layout)) {}

Index PacketLayer::first_row(std::size_t packet) const {
  Index first = 0;
  for (std::size_t i = 0; i < packet; ++i) first += layout_[i].rows();
  return first;
}

models::MatrixView PacketLayer::head(const std::vector<float>& tensor, int heads, int index) const {
  const Index size = std::ssize(tensor) / heads;
  return models::view(tensor.data() + index * size, size / head_dim_, head_dim_);
}

}  // namespace evictsim::policies
