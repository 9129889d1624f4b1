#include "traces/packets.h"

#include <fmt/format.h>

#include <string>

#include "traces/packet_storage.h"
#include "traces/stored_integers.h"
#include "traces/trace_output.h"

namespace evictsim::traces {

using hdf5::Node;

const char* to_string(PacketSet set) noexcept { return set == PacketSet::wrapped ? "wrapped" : "bare"; }

std::int32_t total_rows(const Packets& packets) {
  std::int32_t rows = 0;
  for (const Packet& packet : packets) rows += packet.rows();
  return rows;
}

std::string broken_rule(const Packets& packets, const SequenceInfo& info) {
  if (packets.empty()) return "must hold at least one document";
  std::int32_t end = 0;
  std::int64_t rows = 0;
  for (const Packet& packet : packets) {
    if (packet.document.first < end || packet.document.last <= packet.document.first) {
      return "must be ranges of tokens, none empty, ascending and apart";
    }
    if (packet.header < 0 || packet.trailer < 0) return "must count boundary rows, none negative";
    end = packet.document.last;
    rows += std::int64_t{packet.header} + packet.trailer + end - packet.document.first;
  }
  if (end > info.prompt_length) return "must lie inside the prompt";
  return rows > INT32_MAX ? "must hold fewer rows" : std::string();
}

void write_packet_layout(const Node& group, const Packets& packets) {
  std::vector<Span> documents;
  std::vector<Span> wrappers;
  for (const Packet& packet : packets) {
    documents.push_back(packet.document);
    wrappers.push_back({packet.header, packet.trailer});
  }
  write_pairs(group, "documents", documents);
  write_pairs(group, "wrappers", wrappers);
}

Packets load_packets(const Node& group, const Header& header, const SequenceInfo& info,
                     std::vector<PacketContents>& contents) {
  const Node documents = group.dataset("documents");
  const std::vector<std::int32_t> ranges = bounded(documents, 0, info.length, "must lie between 0 and length");
  const std::vector<std::size_t> shape = documents.shape();
  if (shape.size() != 2 || shape[1] != 2) throw documents.error(ErrorCode::wrong_shape, "must have shape [m, 2]");
  const Node wrappers = group.dataset("wrappers");
  wrappers.require_shape(shape, "[m, 2]");
  const std::vector<std::int32_t> counts = bounded(wrappers, 0, most_wrapper_rows, "must be 0 to 65536 boundary rows");
  Packets packets;
  for (std::size_t i = 0; i < shape[0]; ++i) {
    packets.push_back({{ranges[2 * i], ranges[2 * i + 1]}, counts[2 * i], counts[2 * i + 1]});
  }
  if (const std::string rule = broken_rule(packets, info); !rule.empty()) {
    throw documents.error(ErrorCode::invalid_value, rule);
  }

  const auto rows = static_cast<std::size_t>(total_rows(packets));
  const auto after = static_cast<std::size_t>(info.length - packets.back().document.last);
  const auto width = static_cast<std::size_t>(header.head_dim);
  for (std::size_t index = 0; index < header.layers.size(); ++index) {
    const std::string name = layer_name(header.layers[index]);
    if (!group.has(name)) continue;
    const Node layer = group.group(name);
    const auto check = [&](const char* dataset, std::size_t count, int heads, const char* axes) {
      const Node tensor = layer.dataset(dataset);
      tensor.require_shape({count, static_cast<std::size_t>(heads), width}, axes);
      static_cast<void>(tensor.tensor_type());
    };
    check("k", rows, header.num_kv_heads, "[Tp, Hkv, d]");
    check("v", rows, header.num_kv_heads, "[Tp, Hkv, d]");
    contents[index] = {.rows = true, .queries = layer.has("q"), .after = layer.has("after_k")};
    if (contents[index].queries) check("q", rows, header.num_query_heads, "[Tp, Hq, d]");
    if (!contents[index].after) continue;
    check("after_k", after, header.num_kv_heads, "[Ta, Hkv, d]");
    check("after_v", after, header.num_kv_heads, "[Ta, Hkv, d]");
    check("after_q", after, header.num_query_heads, "[Ta, Hq, d]");
  }
  return packets;
}

}  // namespace evictsim::traces
