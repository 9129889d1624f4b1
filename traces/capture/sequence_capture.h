#pragma once
/// \file
/// Runs the engine over one sequence and hands everything to a sink.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/attention_check.h"
#include "traces/capture/capture_plan.h"
#include "traces/capture/llama_engine.h"
#include "traces/capture/planned_sequence.h"

namespace evictsim::traces::capture {

class CapturedModel;
class Sink;
class SinkRecorder;

class SequenceCapture {
 public:
  /// Decodes greedily where the sequence does not say how it goes on, without callbacks, so that the captured pass can
  /// be compared with it token by token. All must outlive this object.
  SequenceCapture(const CapturedModel& model, const PlannedSequence& sequence, const RunControl& control);

  /// Runs twice, without and with callbacks, and records nothing.
  void measure_overhead();
  /// Records the sequence as a request of the sink, and ends it. Throws Error where the engine fails, a value cannot be
  /// stored, or the run is stopped; the request has not ended then.
  void record(Sink& sink);

  [[nodiscard]] const CaptureReport& report() const { return report_; }
  /// What the written sequence is compared with; without rows when the model is not checked.
  [[nodiscard]] const AttentionCheck& check() const { return check_; }

 private:
  void decode_greedily();
  Speed measure(NodeCollector* collector) const;
  void announce(Sink& sink) const;
  void record_steps(SinkRecorder& recorder);
  void record_second_pass(LlamaContext& context, NodeCollector& collector, SinkRecorder& recorder) const;
  void record_packets(SinkRecorder& recorder) const;
  void note_choices(std::span<const float> logits);
  void require_greedy() const;
  [[nodiscard]] std::vector<std::int32_t> rows_to_check() const;

  const CapturedModel& model_;
  const PlannedSequence& sequence_;
  const RunControl& control_;
  std::vector<std::int32_t> tokens_;   ///< prompt and what follows it
  std::vector<std::int32_t> choices_;  ///< the most probable token behind each row of the captured pass
  CaptureReport report_;
  AttentionCheck check_;
};

}  // namespace evictsim::traces::capture
