#include "traces/capture/sink_recorder.h"

#include <utility>

#include "traces/capture/host_tensor.h"
#include "traces/capture/sink/sink.h"

namespace evictsim::traces::capture {

SinkRecorder::SinkRecorder(Sink& sink, std::string request_id, const Header& header, std::int32_t prompt_length)
    : sink_(sink),
      request_(std::move(request_id)),
      layers_(header.layers),
      query_heads_(header.num_query_heads),
      kv_heads_(header.num_kv_heads),
      width_(header.head_dim),
      hidden_(header.hidden_size),
      vocabulary_(header.vocab_size),
      prompt_length_(prompt_length) {}

template <typename Push>
void SinkRecorder::finish_step(Push&& push_all) {
  try {
    push_all();
  } catch (const Error&) {
    try {
      sink_.end_step();
    } catch (const Error&) {
      // The first error says why; this one that tensors are missing.
    }
    throw;
  }
  sink_.end_step();
}

void SinkRecorder::push(std::span<const float> values, Role role, int layer, std::vector<std::int64_t> shape) {
  if (values.empty()) return;
  const HostTensor tensor(values, std::move(shape));
  sink_.push(tensor.get(), static_cast<std::int32_t>(role), layer, nullptr);
}

void SinkRecorder::push_attention(const StepRows& step, std::size_t captured) {
  const LayerRows& rows = step.layers[captured];
  const int layer = layers_[captured];
  push(rows.query, Role::query, layer, {step.count, query_heads_, width_});
  push(rows.key, Role::key, layer, {step.count, kv_heads_, width_});
  push(rows.value, Role::value, layer, {step.count, kv_heads_, width_});
}

void SinkRecorder::push_sequence(const StepRows& step) {
  std::size_t captured = 0;
  for (std::size_t layer = 0; layer < step.residual.size(); ++layer) {
    const int number = static_cast<int>(layer);
    push(step.residual[layer], Role::hidden, number, {step.count, hidden_});
    if (captured == layers_.size() || layers_[captured] != number) continue;
    push_attention(step, captured);
    // Behind the stream that enters the layer, which it is compared with.
    push(step.layers[captured].after_attention, Role::after_attention, number, {step.count, hidden_});
    ++captured;
  }
  push(step.logits, Role::logits, 0, {step.count, vocabulary_});
}

void SinkRecorder::add(const StepRows& step, std::span<const std::int32_t> tokens) {
  const evictsim_capture_rows range{.request_id = request_.c_str(),
                                    .first_row = 0,
                                    .count = step.count,
                                    .first_position = step.first,
                                    .prompt_length = prompt_length_,
                                    .token_ids = tokens.data()};
  sink_.begin_step({&range, 1});
  finish_step([&] { push_sequence(step); });
}

void SinkRecorder::add(Pass pass, const StepRows& step) {
  std::int32_t& begun = begun_[static_cast<std::size_t>(pass)];
  const evictsim_capture_rows range{.request_id = request_.c_str(),
                                    .first_row = 0,
                                    .count = step.count,
                                    .first_position = begun,
                                    .prompt_length = 0,
                                    .token_ids = nullptr};
  sink_.begin_pass(pass, {&range, 1});
  begun += step.count;
  finish_step([&] {
    for (std::size_t captured = 0; captured < layers_.size(); ++captured) push_attention(step, captured);
  });
}

}  // namespace evictsim::traces::capture
