#pragma once
/// \file
/// Captures one prompt from a model that llama.cpp runs, into one trace file.

#include <filesystem>
#include <vector>

#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"
#include "traces/capture/planned_sequence.h"

namespace evictsim::traces::capture {

/// One capture: construct (loads, checks the model and the plan), then run.
class LlamaCapture {
 public:
  /// Throws Error naming what is wrong with the model, the prompt or the plan.
  explicit LlamaCapture(const CapturePlan& plan);

  /// The trace's header; complete after construction.
  [[nodiscard]] const Header& header() const { return model_.header(); }
  /// The prompt as the model reads it.
  [[nodiscard]] const std::vector<std::int32_t>& prompt() const { return sequence_.prompt; }

  /// See capture_to_file.
  CaptureReport run(const std::filesystem::path& output, const RunControl& control = {});

 private:
  SequencePlan plan_;
  CapturedModel model_;
  PlannedSequence sequence_;
};

/// Writes one sequence of a loaded model to `output`, then checks it. When the check fails the file is renamed to
/// `output` + ".rejected" and Error(invalid_value) is thrown. `sequence` was planned from `plan`.
CaptureReport capture_to_file(const CapturedModel& model, const SequencePlan& plan, const PlannedSequence& sequence,
                              const std::filesystem::path& output, const RunControl& control);

/// What is thrown when the check of a sequence failed; `rejected`: what its trace is called now.
Error failed_check(const AttentionCheckResult& check, double tolerance, const std::filesystem::path& rejected);

}  // namespace evictsim::traces::capture
