#include "traces/capture/trace_recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

constexpr float largest_float16 = 65504.0F;

}  // namespace

bool QueryRows::keeps(int layer, std::int32_t row, std::int32_t prompt_length) const {
  return all || row >= prompt_length - window ||
         std::find(full_layers.begin(), full_layers.end(), layer) != full_layers.end();
}

QueryRows parse_query_rows(std::string_view text) {
  QueryRows rows;
  if (text == "all") return rows;
  constexpr std::string_view prefix = "window:", suffix = "+decode";
  rows.all = false;
  if (text.starts_with(prefix) && text.ends_with(suffix) && text.size() > prefix.size() + suffix.size()) {
    const char* begin = text.data() + prefix.size();
    const char* end = text.data() + text.size() - suffix.size();
    const auto [rest, failure] = std::from_chars(begin, end, rows.window);
    if (failure == std::errc{} && rest == end && rows.window >= 0) return rows;
  }
  throw Error(ErrorCode::invalid_argument,
              "query rows are 'all' or 'window:N+decode', N the prompt rows kept before decoding",
              {.parameter = "q-rows", .value = std::string(text)});
}

TraceRecorder::TraceRecorder(const std::filesystem::path& path, Recording recording)
    : recording_(std::move(recording)),
      channels_(recording_.header, recording_.token_ids, recording_.after_attention),
      writer_(path, recording_.header, recording_.writer) {}

void TraceRecorder::add_weight(int layer, LayerWeight weight, std::span<const float> values) {
  require_storable(values, to_string(weight), layer);
  writer_.write_weight(layer, weight, values);
}

void TraceRecorder::require_storable(std::span<const float> values, const char* name, int layer) const {
  const bool narrow = recording_.writer.tensor_type == TensorType::float16;
  for (const float value : values) {
    if (std::isfinite(value) && (!narrow || std::abs(value) <= largest_float16)) continue;
    throw Error(ErrorCode::invalid_value,
                std::isfinite(value) ? "a value is too large for float16; record with bf16 or f32"
                                     : "the engine produced NaN or infinity",
                {.dataset = fmt::format("layer_{:03}/{}", layer, name), .value = fmt::format("{}", value)});
  }
}

void TraceRecorder::require_storable(const LayerRows& rows, int layer) const {
  require_storable(rows.key, "k", layer);
  require_storable(rows.value, "v", layer);
  require_storable(rows.query, "q", layer);
}

void TraceRecorder::begin_second_pass(const SecondPass& rows) { writer_.write_second_pass(rows); }

void TraceRecorder::add_second_pass(const StepRows& step) {
  for (std::size_t i = 0; i < recording_.header.layers.size(); ++i) {
    const int layer = recording_.header.layers[i];
    require_storable(step.layers[i], layer);
    writer_.append_second_pass_q(layer, step.layers[i].query);
    writer_.append_second_pass_k(layer, step.layers[i].key);
  }
}

void TraceRecorder::begin_packets(PacketSet set, const Packets& packets) { writer_.write_packets(set, packets); }

void TraceRecorder::add_packet_rows(PacketSet set, const StepRows& step) {
  for (std::size_t i = 0; i < recording_.header.layers.size(); ++i) {
    const LayerRows& rows = step.layers[i];
    require_storable(rows, recording_.header.layers[i]);
    writer_.append_packet_rows(set, recording_.header.layers[i], {.k = rows.key, .v = rows.value, .q = rows.query});
  }
}

void TraceRecorder::add_rows_after_packets(PacketSet set, const StepRows& step) {
  for (std::size_t i = 0; i < recording_.header.layers.size(); ++i) {
    const LayerRows& rows = step.layers[i];
    require_storable(rows, recording_.header.layers[i]);
    writer_.append_rows_after_packets(set, recording_.header.layers[i],
                                      {.k = rows.key, .v = rows.value, .q = rows.query});
  }
}

void TraceRecorder::add(const StepRows& step) {
  if (!std::exchange(started_, true)) writer_.begin_sequence(recording_.sequence);
  channels_.add(step);
  const Header& header = recording_.header;
  const auto query_width = static_cast<std::size_t>(header.num_query_heads) * static_cast<std::size_t>(header.head_dim);
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    const int layer = header.layers[i];
    const LayerRows& rows = step.layers[i];
    require_storable(rows, layer);
    writer_.append_kv(layer, rows.key, rows.value);
    std::vector<std::int32_t> kept;
    for (std::int32_t row = step.first; row < step.first + step.count; ++row) {
      if (recording_.query_rows.keeps(layer, row, recording_.sequence.prompt_length)) kept.push_back(row);
    }
    // The kept rows of a step are always its last ones.
    if (!kept.empty())
      writer_.append_q(layer, kept, std::span<const float>(rows.query).last(kept.size() * query_width));
    if (recording_.hidden) {
      const std::vector<float>& input = step.residual[static_cast<std::size_t>(layer)];
      require_storable(input, "x", layer);
      writer_.append_x(layer, input);
    }
  }
}

void TraceRecorder::finish() {
  channels_.write(writer_);
  writer_.end_sequence();
  writer_.seal();
}

}  // namespace evictsim::traces::capture
