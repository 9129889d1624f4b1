// /sequences: reading and rules.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "traces/packet_storage.h"
#include "traces/stored_integers.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"

namespace evictsim::traces {
namespace {

using hdf5::Node;

std::int32_t length_attribute(const Node& group, const char* name, std::int64_t largest, const char* rule) {
  const std::int64_t value = group.integer_attribute(name);
  if (value < 1 || value > largest) {
    throw group.attribute_error(name, ErrorCode::invalid_value, rule, std::to_string(value));
  }
  return static_cast<std::int32_t>(value);
}

void require_increasing(const Node& dataset, const std::vector<std::int32_t>& values) {
  const auto place = std::adjacent_find(values.begin(), values.end(), std::greater_equal<>());
  if (place == values.end()) return;
  throw dataset.error(ErrorCode::invalid_value, "must be strictly increasing",
                      fmt::format("row {}: {} after {}", place - values.begin() + 1, *(place + 1), *place));
}

std::vector<Span> ranges(const Node& dataset, std::int64_t length) {
  const std::vector<std::size_t> shape = dataset.shape();
  if (shape.size() != 2 || shape[1] != 2) throw dataset.error(ErrorCode::wrong_shape, "must have shape [m, 2]");
  const std::vector<std::int32_t> values = bounded(dataset, 0, length, "must lie between 0 and length");
  std::vector<Span> spans;
  for (std::size_t index = 0; index + 1 < values.size(); index += 2) {
    const Span span{values[index], values[index + 1]};
    if (span.first > span.last) {
      throw dataset.error(ErrorCode::invalid_value, "must be half-open ranges, first <= last",
                          fmt::format("[{}, {})", span.first, span.last));
    }
    spans.push_back(span);
  }
  return spans;
}

/// `token_bytes` cut at `token_ends`.
std::vector<std::string> token_texts(const Node& group, std::size_t length) {
  const Node bytes = group.dataset("token_bytes");
  const Node ends = group.dataset("token_ends");
  ends.require_shape({length}, "[T]");
  if (bytes.shape().size() != 1) throw bytes.error(ErrorCode::wrong_shape, "must have shape [bytes]");
  const std::vector<std::int32_t> text = bounded(bytes, 0, 255, "must be bytes");
  std::vector<std::string> texts;
  std::size_t first = 0;
  for (const std::int32_t end : bounded(ends, 0, std::ssize(text), "must lie inside token_bytes")) {
    const auto last = static_cast<std::size_t>(end);
    if (last < first) throw ends.error(ErrorCode::invalid_value, "must not decrease", std::to_string(end));
    std::string& token = texts.emplace_back();
    for (; first < last; ++first) token += static_cast<char>(static_cast<unsigned char>(text[first]));
  }
  if (first != text.size()) {
    throw ends.error(ErrorCode::invalid_value, "must end where token_bytes does", std::to_string(first));
  }
  return texts;
}

void load_layer(const Node& group, const Header& header, std::size_t length, LayerEntry& entry, const Report& report) {
  const auto kv_heads = static_cast<std::size_t>(header.num_kv_heads);
  const auto query_heads = static_cast<std::size_t>(header.num_query_heads);
  const auto width = static_cast<std::size_t>(header.head_dim);
  bool valid = true;
  const auto rule = [&](auto&& check) { valid &= attempt(report, check); };
  rule([&] {
    const Node k = group.dataset("k");
    k.require_shape({length, kv_heads, width}, "[T, Hkv, d]");
    entry.type = k.tensor_type();
  });
  rule([&] {
    const Node v = group.dataset("v");
    v.require_shape({length, kv_heads, width}, "[T, Hkv, d]");
    static_cast<void>(v.tensor_type());
  });
  rule([&] {
    if (!group.has("q_rows")) return;
    const Node dataset = group.dataset("q_rows");
    const std::vector<std::size_t> shape = dataset.shape();
    if (shape.size() != 1 || shape[0] > length) {
      throw dataset.error(ErrorCode::wrong_shape, "must have shape [Tq] with Tq <= length");
    }
    entry.query_rows = bounded(dataset, 0, static_cast<std::int64_t>(length) - 1, "must lie between 0 and length - 1");
    require_increasing(dataset, *entry.query_rows);
  });
  rule([&] {
    const Node q = group.dataset("q");
    q.require_shape({entry.query_rows ? entry.query_rows->size() : length, query_heads, width}, "[Tq, Hq, d]");
    static_cast<void>(q.tensor_type());
  });
  rule([&] {
    entry.has_hidden = group.has("x");
    if (!entry.has_hidden) return;
    const Node x = group.dataset("x");
    x.require_shape({length, static_cast<std::size_t>(header.hidden_size)}, "[T, D]");
    static_cast<void>(x.tensor_type());
  });
  entry.valid = valid;
}

void load_second_pass(const Node& group, const Header& header, const SequenceInfo& info, SequenceEntry& entry) {
  const Node positions = group.dataset("positions");
  const std::vector<std::size_t> shape = positions.shape();
  if (shape.size() != 1) throw positions.error(ErrorCode::wrong_shape, "must have shape [Ts]");
  SecondPass rows;
  rows.positions = bounded(positions, 0, INT32_MAX, "must be absolute positions, not negative");
  const Node chunk = group.dataset("chunk");
  chunk.require_shape({shape[0], 2}, "[Ts, 2]");
  rows.chunk = ranges(chunk, info.length);
  for (std::size_t index = 0; index < header.layers.size(); ++index) {
    const std::string name = layer_name(header.layers[index]);
    if (!group.has(name)) continue;
    const Node q = group.group(name).dataset("q");
    q.require_shape(
        {shape[0], static_cast<std::size_t>(header.num_query_heads), static_cast<std::size_t>(header.head_dim)},
        "[Ts, Hq, d]");
    static_cast<void>(q.tensor_type());
    entry.layers[index].has_second_pass = true;
    if (!group.group(name).has("k")) continue;
    const Node k = group.group(name).dataset("k");
    k.require_shape(
        {shape[0], static_cast<std::size_t>(header.num_kv_heads), static_cast<std::size_t>(header.head_dim)},
        "[Ts, Hkv, d]");
    static_cast<void>(k.tensor_type());
    entry.layers[index].has_second_pass_keys = true;
  }
  entry.second_pass = std::move(rows);
}

void load_channel(const Node& group, Channel channel, const Header& header, const SequenceInfo& info, bool& present) {
  const char* name = to_string(channel);
  if (channel != Channel::token_ids && !group.has(name)) return;
  const Node dataset = group.dataset(name);
  dataset.require_shape(channel_shape(channel, header, static_cast<std::size_t>(info.length)), channel_axes(channel));
  if (channel == Channel::token_ids) {
    bounded(dataset, 0, header.vocab_size - 1, "must lie inside the vocabulary, 0 to vocab_size - 1");
  } else {
    static_cast<void>(dataset.tensor_type());
  }
  present = true;
}

void load_sequence(const Node& group, const Header& header, SequenceInfo& info, SequenceEntry& entry,
                   const Report& report) {
  entry.layers.resize(header.layers.size());
  const bool usable = attempt(report, [&] {
    info.length = length_attribute(group, "length", INT32_MAX, "must be at least 1");
    info.prompt_length = length_attribute(group, "prompt_length", info.length, "must be between 1 and length");
  });
  if (!usable) return;
  entry.valid = true;
  const auto length = static_cast<std::size_t>(info.length);
  attempt(report, [&] {
    const auto optional_text = [&group](const char* name, std::optional<std::string>& target) {
      if (group.has_attribute(name)) target = group.text_attribute(name);
    };
    optional_text("request_id", info.request_id);
    optional_text("task", info.task);
    optional_text("text", info.text);
  });
  attempt(report, [&] {
    if (group.has("token_bytes") || group.has("token_ends")) info.token_texts = token_texts(group, length);
  });
  attempt(report, [&] {
    const Node dataset = group.dataset("positions");
    dataset.require_shape({length}, "[T]");
    info.positions = bounded(dataset, 0, INT32_MAX, "must not be negative");
    require_increasing(dataset, info.positions);
  });
  attempt(report, [&] {
    if (!group.has("spans")) return;
    const Node spans = group.group("spans");
    for (const char* kind : span_kinds) {
      attempt(report, [&] {
        if (spans.has(kind)) info.spans[kind] = ranges(spans.dataset(kind), info.length);
      });
    }
  });
  for (std::size_t index = 0; index < all_channels.size(); ++index) {
    attempt(report, [&] { load_channel(group, all_channels[index], header, info, entry.channels[index]); });
  }
  for (std::size_t index = 0; index < header.layers.size(); ++index) {
    attempt(report, [&] {
      load_layer(group.group(layer_name(header.layers[index])), header, length, entry.layers[index], report);
    });
  }
  attempt(report, [&] {
    if (group.has("second_pass")) load_second_pass(group.group("second_pass"), header, info, entry);
  });
  for (const PacketSet set : packet_sets) {
    attempt(report, [&] {
      if (!group.has("packets") || !group.group("packets").has(to_string(set))) return;
      PacketEntry& packets = entry.packets[static_cast<std::size_t>(set)];
      packets.layers.resize(header.layers.size());
      packets.layout = load_packets(group.group("packets").group(to_string(set)), header, info, packets.layers);
    });
  }
}

}  // namespace

std::vector<std::size_t> channel_shape(Channel channel, const Header& header, std::size_t length) {
  switch (channel) {
    case Channel::entropy_top:
      return {length, 3};
    case Channel::step_norm:
    case Channel::cos_final:
    case Channel::cos_attention:
    case Channel::residual_norm:
      return {header.layers.size(), length};
    default:
      return {length};
  }
}

const char* channel_axes(Channel channel) {
  switch (channel) {
    case Channel::entropy_top:
      return "[T, 3]";
    case Channel::step_norm:
    case Channel::cos_final:
    case Channel::cos_attention:
    case Channel::residual_norm:
      return "[L, T]";
    default:
      return "[T]";
  }
}

void load_sequences(TraceFile& trace, const Report& report) {
  attempt(report, [&] {
    const Node sequences = trace.root.group("sequences");
    const std::vector<std::string> names = sequences.names();
    if (names.empty()) throw sequences.error(ErrorCode::missing_data, "must hold at least one sequence");
    for (const std::string& name : names) {
      attempt(report, [&] {
        if (name.size() < 6 || name.find_first_not_of("0123456789") != std::string::npos) {
          throw sequences.error(ErrorCode::invalid_value, "must hold groups named by six digits", name);
        }
        const Node group = sequences.group(name);
        SequenceInfo info;
        info.name = name;
        SequenceEntry entry;
        load_sequence(group, trace.header, info, entry, report);
        trace.sequences.push_back(std::move(info));
        trace.entries.push_back(std::move(entry));
      });
    }
  });
}

}  // namespace evictsim::traces
