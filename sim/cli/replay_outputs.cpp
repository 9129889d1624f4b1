#include "sim/cli/replay_outputs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <system_error>

#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim {
namespace {

void warn(const std::string& line) { std::fprintf(stderr, "warning: %s\n", line.c_str()); }

bool same_file(const std::filesystem::path& left, const std::filesystem::path& right) {
  std::error_code ignored;
  return std::filesystem::equivalent(left, right, ignored) ||
         std::filesystem::weakly_canonical(left, ignored) == std::filesystem::weakly_canonical(right, ignored);
}

}  // namespace

void require_separate_outputs(const OutputOptions& options, const std::vector<traces::Reader>& readers) {
  std::vector<std::filesystem::path> taken;
  for (const traces::Reader& reader : readers) taken.push_back(reader.path());
  if (!options.calibration.empty()) taken.push_back(options.calibration);
  const auto check = [&taken](const char* option, const std::filesystem::path& path) {
    if (path.empty()) return;
    if (path == "-") {
      throw Error(ErrorCode::invalid_argument,
                  "results are not written to standard output; give the name of a file (./- for one called -)",
                  {.parameter = option, .value = path.string()});
    }
    for (const std::filesystem::path& other : taken) {
      if (!same_file(path, other)) continue;
      throw Error(ErrorCode::invalid_argument, "would overwrite an input or another output; give another name",
                  {.parameter = option, .value = path.string()});
    }
    taken.push_back(path);
  };
  check("--output", options.run_file);
  check("--csv", options.csv);
  check("--dump", options.dump);
  check("--events", options.events);
  // Again when the files are created, but inputs are read for their checksums before that.
  if (!options.run_file.empty()) traces::require_replaceable(options.run_file);
  if (!options.dump.empty()) traces::require_replaceable(options.dump);
}

/// One line on a terminal that is written over and over; nothing elsewhere.
class ReplayOutputs::Progress : public analysis::ForwardingObserver {
 public:
  Progress(sim::ReplayObserver& next, bool shown, std::size_t sequences)
      : ForwardingObserver(next), shown_(shown), sequences_(sequences) {}

  void begin_sequence(const sim::SequenceStart& start) override {
    ++begun_;
    name_ = start.name;
    show(0);
    ForwardingObserver::begin_sequence(start);
  }
  void progress(double share) override {
    show(share);
    ForwardingObserver::progress(share);
  }
  void end_sequence() override {
    clear();
    ForwardingObserver::end_sequence();
  }
  void clear() const {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  void show(double share) const {
    if (!shown_) return;
    fmt::print(stderr, "\r\033[Ksequence {} of {} ({}): {:.0f} %", begun_, sequences_, name_, 100 * share);
  }

  bool shown_;
  std::size_t sequences_;
  std::size_t begun_ = 0;
  std::string name_;
};

ReplayOutputs::ReplayOutputs(const OutputOptions& options, const sim::ReplayPlan& plan,
                             const std::vector<traces::Reader>& readers, analysis::Provenance provenance,
                             analysis::DamagePredictor predictor)
    : options_(options), plan_(plan), predictor_(std::move(predictor)) {
  accumulator_ = std::make_unique<analysis::RunAccumulator>(
      plan, analysis::evidence_spans(readers), options.per,
      [this](analysis::SequenceResult&& result) { take(std::move(result)); });
  if (!options.run_file.empty()) {
    run_file_ = std::make_unique<analysis::RunFile>(options.run_file, plan, provenance);
  }
  sim::ReplayObserver* last = accumulator_.get();
  if (!options.dump.empty()) {
    provenance.command_line = options.dump_command_line;
    dump_ = std::make_unique<analysis::DumpObserver>(options.dump, plan, readers, provenance, *last);
    last = dump_.get();
  }
  if (!options.events.empty()) {
    events_ = std::make_unique<analysis::EventLog>(options.events, plan, *last);
    last = events_.get();
  }
  if (!options.csv.empty()) csv_.emplace(options.csv, analysis::column_names());
  std::size_t sequences = 0;
  for (const traces::Reader& reader : readers) sequences += reader.sequences().size();
  progress_ = std::make_shared<Progress>(*last, !options.quiet && ::isatty(STDERR_FILENO) == 1, sequences);
}

sim::ReplayObserver& ReplayOutputs::observer() { return *progress_; }

void ReplayOutputs::take(analysis::SequenceResult&& result) {
  for (const auto& [policy, why] : result.skipped) {
    if (!warned_.emplace(policy, result.start.trace).second) continue;
    warn(fmt::format("{}: skipped: {}{}", plan_.policies[policy].name, why, layers_hint(why)));
  }
  for (const auto& [policy, why] : result.failed) {
    any_failed_ = true;
    std::fprintf(stderr, "error: %s: sequence %s of %s: %s\n", plan_.policies[policy].name.c_str(),
                 result.start.name.c_str(), result.start.trace_path.c_str(), why.c_str());
  }
  for (analysis::RunRow& row : result.rows) predictor_.predict(result.start.trace, row);
  if (result.start.decode_rows.empty()) ++without_decode_rows_[result.start.trace_path];
  if (csv_) {
    std::string lines;
    for (const analysis::RunRow& row : result.rows) lines += analysis::csv_line(analysis::cells(row));
    csv_->append(lines);
  }
  if (run_file_) run_file_->add(result, events_.get());
  rows_.insert(rows_.end(), result.rows.begin(), result.rows.end());
}

void ReplayOutputs::seal(bool complete) {
  progress_->clear();
  for (const auto& [trace, sequences] : without_decode_rows_) {
    warn(fmt::format("{}: {} {} no decode rows with queries; only the cuts after the prompt are reported", trace,
                     sequences, sequences == 1 ? "sequence has" : "sequences have"));
  }
  if (run_file_) run_file_->seal(complete);
  if (dump_) dump_->seal();
}

std::string ReplayOutputs::written() const {
  std::string names;
  for (const std::filesystem::path& path : {options_.run_file, options_.csv, options_.dump, options_.events}) {
    if (!path.empty()) names += (names.empty() ? "Wrote " : ", ") + path.string();
  }
  return names.empty() ? names : names + ".";
}

}  // namespace evictsim
