#include "sim/cli/plan_outputs.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <utility>

#include "analysis/plan_eviction.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

bool same_file(const std::filesystem::path& left, const std::filesystem::path& right) {
  std::error_code ignored;
  return std::filesystem::equivalent(left, right, ignored) ||
         std::filesystem::weakly_canonical(left, ignored) == std::filesystem::weakly_canonical(right, ignored);
}

/// Outputs must not overwrite inputs or one another.
void require_separate(const PlanArguments& arguments, const PlanCases& cases) {
  std::vector<std::filesystem::path> taken;
  for (const analysis::Provenance::Input& input : cases.inputs) taken.emplace_back(input.path);
  for (const auto& [option, path] :
       {std::pair{"--output", &arguments.plan_file}, std::pair{"--csv", &arguments.csv},
        std::pair{"--requests", &arguments.requests}, std::pair{"--timeline", &arguments.timeline}}) {
    if (path->empty()) continue;
    for (const std::filesystem::path& other : taken) {
      if (!same_file(*path, other)) continue;
      throw Error(ErrorCode::invalid_argument, "would overwrite an input or another output; give another name",
                  {.parameter = option, .value = *path});
    }
    taken.emplace_back(*path);
  }
  if (!arguments.plan_file.empty()) traces::require_replaceable(arguments.plan_file);
  if (!arguments.timeline.empty() && cases.cases.size() > 1) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("shows one row, and the lists multiply to {}", cases.cases.size()),
                {.parameter = "--timeline", .value = arguments.timeline});
  }
}

analysis::Provenance provenance_of(const PlanArguments& arguments, const PlanCases& cases) {
  analysis::Provenance provenance;
  provenance.command_line = arguments.command_line;
  provenance.seed = cases.cases.front().load.seed;
  provenance.created = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  provenance.inputs = cases.inputs;
  return provenance;
}

std::string gpus_text(double count) { return fmt::format("{:.0f} GPU{}", count, count == 1 ? "" : "s"); }

}  // namespace

PlanOutputs::PlanOutputs(const PlanArguments& arguments, const PlanCases& cases)
    : arguments_(arguments),
      cases_(cases),
      terminal_(!arguments.quiet && ::isatty(STDERR_FILENO) == 1),
      begin_(std::chrono::steady_clock::now()) {
  require_separate(arguments, cases);
  std::vector<analysis::PlanRow> settings;
  for (const analysis::PlanCase& plan : cases.cases) settings.push_back(analysis::settings_of(plan));
  if (!arguments.quiet) table_.emplace(settings, arguments.goodput, cases.cases.front().objective.has_value());
  if (!arguments.csv.empty()) csv_.emplace(arguments.csv, analysis::plan_column_names());
  if (!arguments.requests.empty()) requests_.emplace(arguments.requests, analysis::request_column_names());
  if (!arguments.plan_file.empty()) {
    plan_file_ = std::make_unique<analysis::PlanFile>(arguments.plan_file, provenance_of(arguments, cases));
  }
  if (!arguments.timeline.empty()) timeline_ = std::make_unique<analysis::TimelineObserver>();
}

void PlanOutputs::before_run(sim::ServingOptions& options) {
  if (timeline_) options.observer = timeline_.get();
}

void PlanOutputs::row(std::size_t index, const analysis::PlanAnswer& answer) {
  if (terminal_) std::fputs("\r\033[K", stderr);
  if (requests_) requests_->append(analysis::request_lines(index, answer.result));
  if (timeline_) {
    const auto& disaggregation = cases_.cases[index].setup.disaggregation;
    timeline_->write(arguments_.timeline, answer.result, disaggregation ? disaggregation->prefill : 0);
  }
  if (answer.row.slo_met == 1 && (!fewest_ || answer.row.gpus < fewest_->gpus)) fewest_ = answer.row;
  simulated_seconds_ += answer.simulated_seconds;
  const std::size_t group = index / cases_.policies;
  if (group != held_group_) write_rows();
  held_group_ = group;
  held_.push_back(answer.row);
  backgrounds_.push_back(answer.background);
  if (held_.size() == cases_.policies) write_rows();
}

void PlanOutputs::write_rows() {
  // A frontier without some of its rows would be another one.
  if (cases_.policies > 1 && held_.size() == cases_.policies) analysis::mark_frontier(held_, arguments_.min_gpus);
  for (std::size_t index = 0; index < held_.size(); ++index) {
    const analysis::PlanRow& row = held_[index];
    if (csv_) csv_->append(analysis::csv_line(analysis::cells(row)));
    if (plan_file_) plan_file_->add(row, std::move(backgrounds_[index]));
    if (table_) {
      if (rows_ == 0) print(table_->header());
      print(table_->line(row));
      std::fflush(stdout);
    }
    ++rows_;
  }
  held_.clear();
  backgrounds_.clear();
}

void PlanOutputs::progress(std::size_t finished) {
  finished_ = finished;
  if (finished < cases_.cases.size()) print_progress({});
}

void PlanOutputs::searching(const std::string& tried) { print_progress(": trying " + tried); }

void PlanOutputs::print_progress(const std::string& tried) const {
  if (terminal_) fmt::print(stderr, "\r\033[K{} of {} rows{}", finished_, cases_.cases.size(), tried);
}

void PlanOutputs::print_fewest_gpus() const {
  if (!fewest_) {
    print("\nNo row meets the objective.\n");
    return;
  }
  print(
      fmt::format("\nFewest GPUs: {}: {} on {} by {}, tensor parallel {:.0f}, pipeline parallel {:.0f}, "
                  "{:.0f} replica{}, for {:.4g} requests per second.\n",
                  gpus_text(fewest_->gpus), fewest_->model, fewest_->gpu, fewest_->engine, fewest_->tensor_parallel,
                  fewest_->pipeline_parallel, fewest_->replicas, fewest_->replicas == 1 ? "" : "s", fewest_->rate));
}

void PlanOutputs::finish(bool complete) {
  if (terminal_) std::fputs("\r\033[K", stderr);
  write_rows();
  if (plan_file_) plan_file_->seal(complete);
  if (arguments_.quiet) return;
  if (arguments_.min_gpus && complete) print_fewest_gpus();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin_;
  if (any_simulated()) {
    print(fmt::format("\nSimulated {:.4g} s in {:.3g} s: {:.3g} simulated seconds per second.\n", simulated_seconds_,
                      wall.count(), simulated_seconds_ / wall.count()));
  }
  std::string names;
  for (const std::string* path : {&arguments_.plan_file, &arguments_.csv, &arguments_.requests, &arguments_.timeline}) {
    if (!path->empty()) names += (names.empty() ? "Wrote " : ", ") + *path;
  }
  if (!names.empty()) print(names + ".\n");
}

}  // namespace evictsim
