// Passes beside the sequences of requests: second passes, documents read alone, and what stands behind them.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "traces/capture/sink/sink.h"
#include "traces/packet_storage.h"

namespace evictsim::traces::capture {

void Sink::describe_second_pass(const std::string& request_id, SecondPass rows) {
  const auto wrong = [](const char* name, const std::string& rule) {
    return Error(ErrorCode::invalid_argument, rule, {.file = {}, .dataset = {}, .parameter = name, .value = {}});
  };
  const auto in_order = [](const Span& span) { return 0 <= span.first && span.first <= span.last; };
  if (rows.positions.empty()) throw wrong("rows", "a second pass must have rows");
  if (rows.positions.size() != rows.chunk.size()) throw wrong("chunks", "must have one range per row");
  if (std::any_of(rows.positions.begin(), rows.positions.end(), [](std::int32_t at) { return at < 0; })) {
    throw wrong("positions", "must not be negative");
  }
  if (!std::all_of(rows.chunk.begin(), rows.chunk.end(), in_order)) {
    throw wrong("chunks", "must be ranges of token rows that do not end before they begin");
  }
  const std::lock_guard lock(mutex_);
  description_of(request_id).second_pass = std::move(rows);
}

void Sink::describe_packets(const std::string& request_id, PacketSet set, Packets packets) {
  // How long the prompt is turns out later.
  SequenceInfo any;
  any.prompt_length = std::numeric_limits<std::int32_t>::max();
  if (const std::string rule = broken_rule(packets, any); !rule.empty()) {
    throw Error(ErrorCode::invalid_argument, rule, {.file = {}, .dataset = {}, .parameter = "packets", .value = {}});
  }
  const std::lock_guard lock(mutex_);
  description_of(request_id).packets[static_cast<std::size_t>(set)] = std::move(packets);
}

void Sink::begin_pass(Pass pass, std::span<const evictsim_capture_rows> ranges) {
  const auto start = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  require_model();
  if (step_.open) throw WrongOrder("the step before has not ended");
  check_places(ranges);
  std::vector<std::pair<evictsim_capture_rows, Request*>> recorded;
  for (const evictsim_capture_rows& range : ranges) {
    const auto known = requests_.find(range.request_id);
    if (known == requests_.end()) {
      throw WrongOrder(fmt::format(
          "request {}: a pass beside a sequence comes behind its first step and before its end", range.request_id));
    }
    if (!known->second->recording) continue;
    known->second->recording->pass(pass).require_next(range.first_position, range.count);
    recorded.emplace_back(range, known->second.get());
  }
  std::sort(recorded.begin(), recorded.end(),
            [](const auto& a, const auto& b) { return a.first.first_row < b.first.first_row; });
  open_step(pass);
  for (const auto& [range, request] : recorded) {
    request->recording->pass(pass).announce(range.count);
    for (std::int64_t i = 0; i < range.count; ++i) {
      step_.rows->source.push_back(range.first_row + i);
      step_.rows->origin.push_back({request->number, range.first_position + static_cast<std::int32_t>(i)});
    }
  }
  step_.open = true;
  count_call(start);
}

void Sink::take_pass_rows(Request& request, const RowBatch& batch, std::span<const std::int32_t> rows,
                          std::span<const std::byte> bytes) {
  RequestRecording& recording = *request.recording;
  const LayerTensor tensor = batch.role == Role::query ? LayerTensor::query
                             : batch.role == Role::key ? LayerTensor::key
                                                       : LayerTensor::value;
  const auto place = static_cast<std::size_t>(model_.place_of(batch.layer));
  const bool stored = recording.append(batch.rows->pass, place, tensor, rows, bytes, batch.type,
                                       [&](Chunk& chunk) { return take_chunk(request, chunk); });
  if (stored) return;
  has_bad_value_ = true;
  last_loss_ = recording.last_loss();
}

}  // namespace evictsim::traces::capture
