#include "traces/capture/sequence_capture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <set>

#include "traces/capture/captured_model.h"
#include "traces/capture/sink/sink.h"
#include "traces/capture/sink_recorder.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The prompt in steps of `ubatch` tokens, then one token at a time, as a server would run it.
template <typename Step>
void for_each_step(std::size_t prompt, std::size_t length, int ubatch, Step step) {
  const auto most = static_cast<std::size_t>(ubatch);
  for (std::size_t first = 0; first < prompt; first += most) step(first, std::min(most, prompt - first));
  for (std::size_t row = prompt; row < length; ++row) step(row, std::size_t{1});
}

Speed speed_of(std::size_t prompt, std::size_t length, double prefill_seconds, double seconds) {
  Speed speed;
  speed.seconds = seconds;
  speed.prefill = static_cast<double>(prompt) / prefill_seconds;
  if (length > prompt) speed.decode = static_cast<double>(length - prompt) / (seconds - prefill_seconds);
  return speed;
}

std::int32_t largest_index(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

SequenceCapture::SequenceCapture(const CapturedModel& model, const PlannedSequence& sequence, const RunControl& control)
    : model_(model), sequence_(sequence), control_(control), tokens_(sequence.prompt), check_({}, {}, 1) {
  if (sequence.continuation) {
    tokens_.insert(tokens_.end(), sequence.continuation->begin(), sequence.continuation->end());
  } else {
    decode_greedily();
  }
  report_.prompt_length = sequence.prompt_length();
  report_.length = static_cast<std::int32_t>(tokens_.size());
  for (std::size_t row = sequence.prompt.size(); row < tokens_.size(); ++row) {
    report_.continuation += model.model().piece(tokens_[row]);
  }
  report_.tolerance = model.tolerance();
  check_ = AttentionCheck(model.header().layers, model.is_checked() ? rows_to_check() : std::vector<std::int32_t>{},
                          model.header().hidden_size);
}

void SequenceCapture::decode_greedily() {
  const std::size_t prompt = tokens_.size();
  const std::size_t limit = prompt + static_cast<std::size_t>(sequence_.decode);
  if (limit == prompt) return;
  const auto vocabulary = static_cast<std::size_t>(model_.header().vocab_size);
  LlamaContext context(model_.model(), model_.engine(), static_cast<std::int32_t>(limit), nullptr);
  bool ended = false;
  for_each_step(prompt, limit, model_.engine().ubatch, [&](std::size_t first, std::size_t count) {
    if (ended) return;
    control_.require_running();
    const auto logits = context.decode(std::span(tokens_).subspan(first, count), static_cast<std::int32_t>(first));
    if (first + count < prompt || first + count == limit) return;
    const std::int32_t next = largest_index(logits.last(vocabulary));
    ended = !sequence_.ignore_end && model_.model().ends_generation(next);
    if (!ended) tokens_.push_back(next);
  });
}

Speed SequenceCapture::measure(NodeCollector* collector) const {
  const std::size_t prompt = sequence_.prompt.size();
  LlamaContext context(model_.model(), model_.engine(), report_.length, collector);
  const auto start = Clock::now();
  double prefill = 0;
  for_each_step(prompt, tokens_.size(), model_.engine().ubatch, [&](std::size_t first, std::size_t count) {
    control_.require_running();
    if (collector != nullptr) {
      collector->begin_step(static_cast<std::int32_t>(first), static_cast<std::int32_t>(count));
    }
    context.decode(std::span(tokens_).subspan(first, count), static_cast<std::int32_t>(first));
    if (collector != nullptr) collector->finish_step();
    if (first < prompt) prefill = seconds_since(start);
  });
  return speed_of(prompt, tokens_.size(), prefill, seconds_since(start));
}

void SequenceCapture::measure_overhead() {
  NodeCollector collector(model_.collector_plan());
  report_.uncaptured = measure(nullptr);
  report_.overhead = measure(&collector).seconds / report_.uncaptured->seconds;
}

std::vector<std::int32_t> SequenceCapture::rows_to_check() const {
  const std::int32_t prompt = report_.prompt_length, length = report_.length;
  const std::array candidates = {
      0, 1, prompt / 4, prompt / 2, prompt - 32, prompt - 1, prompt, (prompt + length) / 2, length - 1};
  std::set<std::int32_t> rows;
  for (const std::int32_t row : candidates) {
    if (row >= 0 && row < length) rows.insert(row);
  }
  return {rows.begin(), rows.end()};
}

/// What the sink must know before the first step.
void SequenceCapture::announce(Sink& sink) const {
  SequenceInfo info;
  info.task = sequence_.task;
  info.spans = sequence_.spans;
  if (!sequence_.text.empty()) info.text = sequence_.text;
  sink.describe_request(sequence_.id, std::move(info));
  if (!sequence_.second_pass.empty()) {
    sink.describe_second_pass(sequence_.id, rows_of(sequence_.second_pass, sequence_.prompt_length()));
  }
  if (!sequence_.wrapper) return;
  sink.describe_packets(sequence_.id, PacketSet::bare, sequence_.packets({}));
  if (sequence_.wrapper->rows() > 0) {
    sink.describe_packets(sequence_.id, PacketSet::wrapped, sequence_.packets(*sequence_.wrapper));
  }
}

void SequenceCapture::note_choices(std::span<const float> logits) {
  const auto vocabulary = static_cast<std::size_t>(model_.header().vocab_size);
  for (; !logits.empty(); logits = logits.subspan(vocabulary)) {
    choices_.push_back(largest_index(logits.first(vocabulary)));
  }
}

void SequenceCapture::require_greedy() const {
  if (sequence_.continuation) return;
  for (std::size_t row = sequence_.prompt.size(); row < tokens_.size(); ++row) {
    if (choices_[row - 1] == tokens_[row]) continue;
    throw Error(
        ErrorCode::invalid_value,
        fmt::format(
            "the model chose another token at row {} while it was captured; the engine is not deterministic here",
            row));
  }
}

// Behind the prompt, before anything is decoded; the cache is then as it was.
void SequenceCapture::record_second_pass(LlamaContext& context, NodeCollector& collector,
                                         SinkRecorder& recorder) const {
  const std::int32_t prompt = report_.prompt_length;
  for (const ChunkPass& pass : sequence_.second_pass) {
    for_each_step(pass.tokens.size(), pass.tokens.size(), model_.engine().ubatch,
                  [&](std::size_t first, std::size_t count) {
                    control_.require_running();
                    const std::int32_t position = prompt + static_cast<std::int32_t>(first);
                    collector.begin_step(position, static_cast<std::int32_t>(count));
                    context.decode(std::span(pass.tokens).subspan(first, count), position);
                    recorder.add(Pass::second, collector.finish_step());
                  });
    context.forget(prompt);
  }
}

void SequenceCapture::record_packets(SinkRecorder& recorder) const {
  CollectorPlan plan = model_.collector_plan();
  plan.residual = false;  // embeddings are no node of the graph, and nothing of it is stored
  plan.attention_output = false;
  const auto record = [&](Pass alone, Pass behind, const Wrapper& wrapper) {
    const Packets packets = sequence_.packets(wrapper);
    NodeCollector collector(plan);
    LlamaContext context(model_.model(), model_.engine(), entries_needed(packets, report_.length), &collector, 2);
    PacketPass pass(context, collector, model_.engine().ubatch, tokens_);
    const auto add_to = [&](Pass target) {
      return [this, target, &recorder](const StepRows& step) {
        control_.require_running();
        recorder.add(target, step);
      };
    };
    pass.read_alone(packets, wrapper, add_to(alone));
    pass.read_behind(packets, wrapper, report_.prompt_length, add_to(behind));
  };
  record(Pass::bare, Pass::behind_bare, {});
  if (sequence_.wrapper->rows() > 0) record(Pass::wrapped, Pass::behind_wrapped, *sequence_.wrapper);
}

void SequenceCapture::record_steps(SinkRecorder& recorder) {
  NodeCollector collector(model_.collector_plan());
  std::int32_t entries = report_.length;
  for (const ChunkPass& pass : sequence_.second_pass) {
    entries = std::max(entries, report_.prompt_length + static_cast<std::int32_t>(pass.tokens.size()));
  }
  LlamaContext context(model_.model(), model_.engine(), entries, &collector);
  const std::size_t prompt = sequence_.prompt.size();
  const auto start = Clock::now();
  double prefill = 0;
  double aside = 0;
  for_each_step(prompt, tokens_.size(), model_.engine().ubatch, [&](std::size_t first, std::size_t count) {
    control_.require_running();
    const auto tokens = std::span(tokens_).subspan(first, count);
    collector.begin_step(static_cast<std::int32_t>(first), static_cast<std::int32_t>(count));
    const auto logits = context.decode(tokens, static_cast<std::int32_t>(first));
    StepRows step = collector.finish_step();
    step.logits = logits;
    recorder.add(step, tokens);
    check_.add(step);
    note_choices(logits);
    if (first < prompt) prefill = seconds_since(start);
    if (control_.progress) control_.progress(static_cast<std::int32_t>(first + count), report_.length);
    if (first + count == prompt && !sequence_.second_pass.empty()) {
      record_second_pass(context, collector, recorder);
      aside = seconds_since(start) - prefill;
    }
  });
  report_.captured = speed_of(prompt, tokens_.size(), prefill, seconds_since(start) - aside);
}

void SequenceCapture::record(Sink& sink) {
  announce(sink);
  SinkRecorder recorder(sink, sequence_.id, model_.header(), report_.prompt_length);
  record_steps(recorder);
  require_greedy();
  if (sequence_.wrapper) record_packets(recorder);
  sink.finish_request(sequence_.id);
}

}  // namespace evictsim::traces::capture
