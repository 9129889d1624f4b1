#include "traces/capture/batch_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "traces/capture/batch_capture.h"
#include "traces/stop_on_signal.h"

namespace evictsim::traces::capture {
namespace {

class Printer final : public BatchObserver {
 public:
  explicit Printer(std::string source) : source_(std::move(source)) {}

  void progressed(const BatchEntry& entry, std::int32_t done, std::int32_t length) override {
    if (!terminal_) return;
    fmt::print(stderr, "\r{}: {} of {} tokens{}", entry.sequence.id, done, length, done == length ? "\n" : "");
  }
  void recorded(const BatchEntry& entry, const CaptureReport& report) override {
    fmt::print("{}: {} prompt + {} decode tokens, {:.1f} tokens/s prefill, {:.1f} tokens/s decode\n", entry.sequence.id,
               report.prompt_length, report.length - report.prompt_length, report.captured.prefill,
               report.captured.decode);
    std::fflush(stdout);
  }
  void skipped(const BatchEntry& entry) override { fmt::print("{}: recorded before, skipped\n", entry.sequence.id); }
  void failed(const BatchEntry& entry, const Error& error) override {
    const std::string place = entry.line > 0 ? fmt::format("{} line {}, ", source_, entry.line) : "";
    fmt::print(stderr, "evictsim-capture: {}{}: {}\n", place, entry.sequence.id, error.what());
  }
  void checked(const std::string& /*id*/, const AttentionCheckResult& /*check*/) override { ++checked_; }

  void finish(const BatchReport& report, const std::filesystem::path& directory) const {
    fmt::print("{}: {} recorded, {} skipped, {} failed{}; {} new shard{}\n", directory.string(), report.recorded,
               report.skipped, report.failed, report.interrupted ? ", interrupted" : "", report.shards,
               report.shards == 1 ? "" : "s");
    if (checked_ > 0) {
      fmt::print("check: {} sequence{}, attention from the trace against the engine's: largest relative error {:.2e}\n",
                 checked_, checked_ == 1 ? "" : "s", report.largest_error);
    }
  }

 private:
  std::string source_;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  std::size_t checked_ = 0;
};

}  // namespace

int run_batch(BatchCapture& batch, const std::filesystem::path& directory, const std::string& source) {
  const StopOnSignal signals;
  Printer printer(source);
  const BatchReport report = batch.run(directory, printer, &StopOnSignal::requested());
  printer.finish(report, directory);
  if (report.interrupted) return interrupted_status;
  return report.failed == 0 ? 0 : 1;
}

}  // namespace evictsim::traces::capture
