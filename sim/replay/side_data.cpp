#include "sim/replay/side_data.h"

#include <fmt/format.h>

#include <utility>

#include "models/norm.h"

namespace evictsim::sim {
namespace {

models::Matrix matrix_of(const traces::Tensor& tensor) {
  return models::view(tensor.data.data(), static_cast<models::Index>(tensor.shape[0]),
                      static_cast<models::Index>(tensor.shape[1]));
}

}  // namespace

SequenceSide read_sequence_side(const traces::Reader& reader, std::size_t sequence, const policies::Needs& needs) {
  SequenceSide side;
  for (const traces::Channel channel : needs.channels) {
    if (auto tensor = reader.read_channel(sequence, channel)) side.channels.emplace(channel, std::move(*tensor));
  }
  if (needs.second_pass) side.second_pass = reader.read_second_pass(sequence);
  for (const traces::PacketSet set : traces::packet_sets) {
    const auto place = static_cast<std::size_t>(set);
    if (needs.packets[place].rows) side.packets[place] = reader.read_packets(sequence, set);
  }
  return side;
}

LayerSide read_layer_side(const traces::Reader& reader, std::size_t sequence, int layer, const policies::Needs& needs,
                          const SequenceSide& shared) {
  LayerSide side;
  side.sequence = &shared;
  side.component_bytes = reader.stored_type(sequence, layer) == traces::TensorType::float32 ? 4 : 2;
  if (needs.output_weights) {
    if (const auto weights = reader.read_weight(layer, traces::LayerWeight::w_o)) {
      side.output_weights = matrix_of(*weights);
    }
  }
  if (needs.layer_input) {
    const auto hidden = reader.read_hidden(sequence, layer);
    auto norm = reader.read_weight(layer, traces::LayerWeight::input_norm);
    if (hidden && norm) {
      side.layer_input = matrix_of(*hidden);
      models::Norm::of(reader.header(), std::move(norm->data)).apply(side.layer_input);
    }
  }
  if (needs.second_pass) {
    if (auto queries = reader.read_second_pass_queries(sequence, layer)) side.second_pass_queries = std::move(*queries);
    if (auto keys = reader.read_second_pass_keys(sequence, layer)) side.second_pass_keys = std::move(*keys);
  }
  for (const traces::PacketSet set : traces::packet_sets) {
    const auto place = static_cast<std::size_t>(set);
    if (needs.packets[place].rows) side.packets[place] = reader.read_packet_layer(sequence, layer, set);
  }
  return side;
}

std::string missing_side(const traces::Reader& reader, std::size_t sequence, const std::vector<int>& layers,
                         const policies::Needs& needs) {
  const traces::SequenceInfo& info = reader.sequences()[sequence];
  const std::string group = "/sequences/" + info.name;
  if (!needs.parameters.empty()) return "needs the parameter " + *needs.parameters.begin();
  for (const traces::Channel channel : needs.channels) {
    if (!reader.has_channel(sequence, channel)) {
      return fmt::format("needs {}/{}, which the trace lacks", group, traces::to_string(channel));
    }
  }
  for (const std::string& kind : needs.spans) {
    if (!info.spans.contains(kind)) return fmt::format("needs {}/spans/{}, which the trace lacks", group, kind);
  }
  for (const int layer : layers) {
    const std::string name = traces::layer_name(layer);
    if (needs.output_weights && !reader.has_weight(layer, traces::LayerWeight::w_o)) {
      return fmt::format("needs /model/{}/w_o, which the trace lacks", name);
    }
    if (needs.layer_input && !reader.has_hidden(sequence, layer)) {
      return fmt::format("needs {}/{}/x, which the trace lacks", group, name);
    }
    if (needs.layer_input && !reader.has_weight(layer, traces::LayerWeight::input_norm)) {
      return fmt::format("needs /model/{}/input_norm, which the trace lacks", name);
    }
    if (needs.second_pass && !reader.read_second_pass_queries(sequence, layer)) {
      return fmt::format("needs {}/second_pass/{}/q, which the trace lacks", group, name);
    }
    for (const traces::PacketSet set : traces::packet_sets) {
      const traces::PacketContents& needed = needs.packets[static_cast<std::size_t>(set)];
      const traces::PacketContents held = reader.packet_contents(sequence, layer, set);
      const bool none_behind = held.rows && reader.read_packets(sequence, set)->back().document.last == info.length;
      const char* lacks = needed.rows && !held.rows                     ? "k"
                          : needed.queries && !held.queries             ? "q"
                          : needed.after && !held.after && !none_behind ? "after_k"
                                                                        : nullptr;
      if (lacks == nullptr) continue;
      return fmt::format("needs {}/packets/{}/{}/{}, which the trace lacks", group, traces::to_string(set), name,
                         lacks);
    }
  }
  return {};
}

}  // namespace evictsim::sim
