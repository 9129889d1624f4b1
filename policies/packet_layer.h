#pragma once
/// \file
/// Documents that were recorded alone (traces/packets.h), as a placement sees those of one layer, and the policy that
/// may cut each of them before it is stored. KV Packet, arXiv 2604.13226.

#include <memory>

#include "models/geometry.h"
#include "models/matrix.h"
#include "traces/packets.h"

namespace evictsim::policies {

struct Policy;

/// Views of one layer's packets. Refers to layout and tensors.
class PacketLayer {
 public:
  PacketLayer(const models::Geometry& geometry, const traces::Packets& layout, const traces::PacketTensors& tensors);

  [[nodiscard]] const traces::Packets& layout() const { return layout_; }
  /// Rows of all packets, Tp; those of packet i begin at `first_row(i)`.
  [[nodiscard]] models::Index rows() const { return rows_; }
  [[nodiscard]] models::Index first_row(std::size_t packet) const;
  /// [Tp, d]; keys after RoPE at the positions inside their packet. No queries where the trace has none: [0, d].
  [[nodiscard]] models::MatrixView keys(int kv_head) const { return head(tensors_.k, kv_heads_, kv_head); }
  [[nodiscard]] models::MatrixView values(int kv_head) const { return head(tensors_.v, kv_heads_, kv_head); }
  [[nodiscard]] models::MatrixView queries(int query_head) const { return head(tensors_.q, query_heads_, query_head); }
  /// Of the rows behind the last document in a pass that read the packets, [Ta, d]; no rows where the trace has none.
  [[nodiscard]] models::MatrixView after_keys(int kv_head) const { return head(tensors_.after_k, kv_heads_, kv_head); }
  [[nodiscard]] models::MatrixView after_values(int kv_head) const {
    return head(tensors_.after_v, kv_heads_, kv_head);
  }
  [[nodiscard]] models::MatrixView after_queries(int query_head) const {
    return head(tensors_.after_q, query_heads_, query_head);
  }

 private:
  [[nodiscard]] models::MatrixView head(const std::vector<float>& tensor, int heads, int index) const;

  const traces::Packets& layout_;
  const traces::PacketTensors& tensors_;
  int kv_heads_, query_heads_, head_dim_;
  models::Index rows_;
};

/// How packets are made ready before a request uses them.
struct PacketIngest {
  traces::PacketSet set = traces::PacketSet::wrapped;
  /// Cuts every packet by itself, once, to the budget's share of its rows; null: packets stay whole. Boundary rows are
  /// the spans of kind `boundary_span`.
  std::shared_ptr<const Policy> press;
};

inline constexpr const char* boundary_span = "boundary";

}  // namespace evictsim::policies
