#include "traces/trace_output.h"

#include <algorithm>

namespace evictsim::traces {

using hdf5::Node;

void write_header(const Node& root, const Node& model, const Header& header) {
  for (const auto& [name, text] : header.extra) root.set_attribute(name, text);
  root.set_attribute("format", std::string(format_name));
  root.set_attribute("format_version", std::int64_t{format_version});
  root.set_attribute("model", header.model);
  root.set_attribute("engine", header.engine);
  root.set_attribute("engine_version", header.engine_version);
  root.set_attribute("created", header.created);
  root.set_attribute("num_layers", std::int64_t{header.num_layers});
  root.set_attribute("num_query_heads", std::int64_t{header.num_query_heads});
  root.set_attribute("num_kv_heads", std::int64_t{header.num_kv_heads});
  root.set_attribute("head_dim", std::int64_t{header.head_dim});
  root.set_attribute("hidden_size", std::int64_t{header.hidden_size});
  root.set_attribute("vocab_size", std::int64_t{header.vocab_size});
  root.set_attribute("attention_scale", header.attention_scale);
  root.set_attribute("logit_softcap", header.logit_softcap);
  root.set_attribute("rope_theta", header.rope_theta);
  root.set_attribute("rope_attention_scaling", header.rope_attention_scaling);
  root.set_attribute("rope_layout", std::string(to_string(header.rope_layout)));
  if (header.rotary_dim) root.set_attribute("rotary_dim", std::int64_t{*header.rotary_dim});
  if (header.norm_epsilon) root.set_attribute("norm_epsilon", *header.norm_epsilon);
  if (header.norm_kind) root.set_attribute("norm_kind", std::string(to_string(*header.norm_kind)));
  if (header.dropped_rows) root.set_attribute("dropped_rows", *header.dropped_rows);
  if (header.capture_overhead) root.set_attribute("capture_overhead", *header.capture_overhead);
  model.write_integers("layers", {header.layers.size()}, header.layers);
  if (!header.inv_freq.empty() || header.rope_layout != RopeLayout::none) {
    model.write_reals("inv_freq", header.inv_freq);
  }
  if (!header.sliding_window.empty()) {
    model.write_integers("sliding_window", {header.sliding_window.size()}, header.sliding_window);
  }
  if (!header.sensitivity.empty()) {
    model.write_reals("sensitivity", header.sensitivity);
    const Node dataset = model.dataset("sensitivity");
    for (const auto& [name, text] : header.sensitivity_attributes) dataset.set_attribute(name, text);
  }
}

namespace {

/// All tokens' bytes one after another, and where each ends.
void write_token_texts(const Node& sequence, const std::vector<std::string>& texts) {
  std::string bytes;
  std::vector<std::int32_t> ends;
  for (const std::string& text : texts) {
    bytes += text;
    ends.push_back(static_cast<std::int32_t>(bytes.size()));
  }
  const std::vector<std::size_t> shape = {bytes.size()};
  const Node dataset = sequence.create_dataset("token_bytes", H5T_STD_U8LE, shape);
  if (!bytes.empty()) dataset.write_rows(shape, 0, bytes.size(), bytes.data());
  sequence.write_integers("token_ends", {ends.size()}, ends);
}

}  // namespace

void write_sequence_info(const Node& sequence, const SequenceInfo& info) {
  sequence.set_attribute("prompt_length", std::int64_t{info.prompt_length});
  sequence.set_attribute("length", std::int64_t{info.length});
  if (info.request_id) sequence.set_attribute("request_id", *info.request_id);
  if (info.task) sequence.set_attribute("task", *info.task);
  if (info.text) sequence.set_attribute("text", *info.text);
  if (info.token_texts) write_token_texts(sequence, *info.token_texts);
  sequence.write_integers("positions", {info.positions.size()}, info.positions);
  if (info.spans.empty()) return;
  const Node group = sequence.create_group("spans");
  for (const auto& [kind, spans] : info.spans) write_pairs(group, kind, spans);
}

void write_second_pass_rows(const Node& group, const SecondPass& rows) {
  group.write_integers("positions", {rows.positions.size()}, rows.positions);
  write_pairs(group, "chunk", rows.chunk);
}

void write_pairs(const Node& group, const std::string& name, const std::vector<Span>& pairs) {
  std::vector<std::int32_t> values;
  for (const Span& pair : pairs) values.insert(values.end(), {pair.first, pair.last});
  group.write_integers(name, {pairs.size(), 2}, values);
}

std::size_t rows_per_chunk(std::size_t row_bytes) {
  constexpr std::size_t chunk_bytes = std::size_t{512} << 10;
  constexpr std::size_t least_rows = 16;
  return std::max(least_rows, chunk_bytes / row_bytes);
}

}  // namespace evictsim::traces
