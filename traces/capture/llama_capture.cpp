#include "traces/capture/llama_capture.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "traces/capture/sequence_capture.h"
#include "traces/capture/sink/sink.h"
#include "traces/error.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

LlamaCapture::LlamaCapture(const CapturePlan& plan)
    : plan_(plan.sequence), model_(plan.model, plan.engine, plan.record), sequence_(plan_sequence(plan_, model_)) {}

CaptureReport LlamaCapture::run(const std::filesystem::path& output, const RunControl& control) {
  return capture_to_file(model_, plan_, sequence_, output, control);
}

CaptureReport capture_to_file(const CapturedModel& model, const SequencePlan& plan, const PlannedSequence& sequence,
                              const std::filesystem::path& output, const RunControl& control) {
  SequenceCapture capture(model, sequence, control);
  if (model.record().measure_overhead) capture.measure_overhead();
  {
    Sink sink(output, model.sink_options(true));
    model.introduce(sink, settings_of({&plan}), capture.report().overhead);
    capture.record(sink);
    sink.close();
  }
  CaptureReport report = capture.report();
  if (!model.is_checked()) return report;
  report.check = capture.check().compare(Reader(output));
  if (report.check->largest <= report.tolerance) return report;
  std::filesystem::path rejected = output;
  rejected += ".rejected";
  std::error_code ignored;
  std::filesystem::rename(output, rejected, ignored);
  throw failed_check(*report.check, report.tolerance, rejected);
}

Error failed_check(const AttentionCheckResult& check, double tolerance, const std::filesystem::path& rejected) {
  return {ErrorCode::invalid_value,
          fmt::format("attention recomputed from the trace differs from the engine's by {:.2e} (layer {}, row {}), "
                      "more than {:.0e}; the trace was renamed",
                      check.largest, check.layer, check.row, tolerance),
          {.file = rejected.string()}};
}

}  // namespace evictsim::traces::capture
