#pragma once
/// \file
/// What policies may ask of a trace besides k, v and q: read as far as the policies that run need it.

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/matrix.h"
#include "policies/needs.h"
#include "traces/reader.h"

namespace evictsim::sim {

/// Of one sequence, shared by its layers.
struct SequenceSide {
  std::map<traces::Channel, traces::Tensor> channels;  ///< [T], [T, 3] or [L, T]
  std::optional<traces::SecondPass> second_pass;
  std::array<std::optional<traces::Packets>, traces::packet_sets.size()> packets;  ///< by PacketSet
};

/// Of one layer.
struct LayerSide {
  const SequenceSide* sequence = nullptr;
  int component_bytes = 4;             ///< of one stored component of k or v
  models::Matrix output_weights;       ///< w_o [D, Hq * d]
  models::Matrix layer_input;          ///< [T, D] behind the norm before attention
  traces::Tensor second_pass_queries;  ///< [Hq, Ts, d]
  traces::Tensor second_pass_keys;     ///< [Hkv, Ts, d]; empty where the trace has none
  std::array<traces::PacketTensors, traces::packet_sets.size()> packets;  ///< by PacketSet
};

SequenceSide read_sequence_side(const traces::Reader& reader, std::size_t sequence, const policies::Needs& needs);
LayerSide read_layer_side(const traces::Reader& reader, std::size_t sequence, int layer, const policies::Needs& needs,
                          const SequenceSide& shared);

/// The first dataset, span or parameter that `needs` lacks for `layers` besides queries, as "needs ..."; empty when
/// nothing is missing.
std::string missing_side(const traces::Reader& reader, std::size_t sequence, const std::vector<int>& layers,
                         const policies::Needs& needs);

}  // namespace evictsim::sim
