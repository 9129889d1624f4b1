#include "traces/packet_output.h"

#include <string>
#include <utility>

#include "traces/error.h"
#include "traces/packet_storage.h"

namespace evictsim::traces {

using hdf5::Node;

void PacketOutput::begin(const Node& sequence, PacketSet set, const Packets& packets) {
  std::optional<Set>& entry = sets_[static_cast<std::size_t>(set)];
  if (entry) throw sequence.error(ErrorCode::invalid_argument, "these packets of this sequence were written before");
  if (group_.id() < 0) group_ = sequence.create_group("packets");
  entry.emplace();
  entry->packets = packets;
  entry->group = group_.create_group(to_string(set));
}

void PacketOutput::append(PacketSet set, int layer, const PacketRows& rows, const std::array<const char*, 3>& names,
                          const Header& header, const WriterOptions& options) {
  std::optional<Set>& entry = sets_[static_cast<std::size_t>(set)];
  if (!entry) throw Error(ErrorCode::invalid_argument, "write_packets must come first", {.dataset = to_string(set)});
  Node& group = entry->layers[layer];
  if (group.id() < 0) group = entry->group.create_group(layer_name(layer));
  const auto add = [&](const char* name, int heads, std::span<const float> values) {
    if (values.empty()) return;
    std::unique_ptr<RowStream>& stream = entry->streams[{layer, name}];
    if (!stream) {
      stream = std::make_unique<RowStream>(
          group, name,
          std::vector<std::size_t>{static_cast<std::size_t>(heads), static_cast<std::size_t>(header.head_dim)},
          options);
    }
    stream->append(values);
  };
  add(names[0], header.num_kv_heads, rows.k);
  add(names[1], header.num_kv_heads, rows.v);
  add(names[2], header.num_query_heads, rows.q);
}

void PacketOutput::finish(const SequenceInfo& info, const Header& header) {
  for (std::optional<Set>& entry : sets_) {
    if (!entry) continue;
    if (const std::string rule = broken_rule(entry->packets, info); !rule.empty()) {
      throw entry->group.error(ErrorCode::invalid_value, "documents " + rule);
    }
    write_packet_layout(entry->group, entry->packets);
    const auto rows = static_cast<std::size_t>(total_rows(entry->packets));
    const auto after = static_cast<std::size_t>(info.length - entry->packets.back().document.last);
    for (const int layer : header.layers) {
      const auto found = entry->layers.find(layer);
      if (found == entry->layers.end()) continue;
      const auto complete = [&](const char* name, std::size_t count) {
        traces::finish(entry->streams[{layer, name}], found->second, name, count);
      };
      complete("k", rows);
      complete("v", rows);
      if (entry->streams.contains({layer, "q"})) complete("q", rows);
      if (!entry->streams.contains({layer, "after_k"})) continue;
      for (const char* name : {"after_k", "after_v", "after_q"}) complete(name, after);
    }
  }
  close();
}

void PacketOutput::close() {
  sets_ = {};
  group_.close();
}

}  // namespace evictsim::traces
