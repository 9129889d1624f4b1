#include "sim/cli/calibrate_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "analysis/damage/calibration.h"
#include "analysis/damage/predictor.h"
#include "analysis/damage/truth_file.h"
#include "analysis/run_accumulator.h"
#include "policies/policy.h"
#include "sim/replay/replay.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/stop_on_signal.h"

namespace evictsim {
namespace {

constexpr const char* footer = R"(Examples:
  evictsim calibrate truth.csv -o model.cal.json
      Fits weights of layers to what `evictsim-capture verify` measured, and says how well they hold on other texts.
  evictsim calibrate truth.csv traces/ -o model.cal.json
      The same, beside the sensitivity that the traces carry. Errors of layers that truth.csv lacks are replayed.
  evictsim replay trace.h5 --policy all --calibration model.cal.json --rank
      Predicts the damage of policies with it.

truth.csv, the method, its limits and model.cal.json: docs/damage.md.
Exit status: 0 done, 1 bad input, 2 bad usage.)";

struct CalibrateArguments {
  std::string truth, output, model, law = "saturating_total", weights = "fitted";
  std::vector<std::string> traces;
  analysis::CalibrationOptions options;
  int threads = 0;
  std::uint64_t seed = 0;
  bool quiet = false;
};

/// What names a replayed point: file name of the trace, sequence, policy, budget.
using PointName = std::tuple<std::string, std::string, std::string, std::string>;

PointName name_of(const analysis::RunRow& row) {
  return {std::filesystem::path(row.trace).filename().string(), row.sequence, row.policy, row.budget};
}

/// Policies and budgets of the rows that have no errors of layers.
sim::ReplayPlan plan_of(const std::vector<analysis::TruthRow>& rows) {
  sim::ReplayPlan plan;
  std::map<std::string, std::size_t> places;
  std::set<std::pair<std::string, std::string>> points;
  for (const analysis::TruthRow& row : rows) {
    if (!row.run.ok() || !points.emplace(row.run.policy, row.run.budget).second) continue;
    auto place = places.find(row.run.policy);
    if (place == places.end()) {
      std::vector<policies::Policy> parsed = policies::parse_policies(row.run.policy);
      if (parsed.size() != 1) {
        throw Error(ErrorCode::invalid_value, "must be one policy",
                    {.file = {}, .dataset = "policy", .parameter = {}, .value = row.run.policy});
      }
      place = places.emplace(row.run.policy, plan.policies.size()).first;
      plan.policies.push_back(std::move(parsed.front()));
    }
    plan.points.push_back({place->second, policies::Budget::parse(row.run.budget)});
  }
  return plan;
}

/// Takes the numbers of a replay of the traces for rows that have none.
void replay_rows(const CalibrateArguments& arguments, const std::vector<traces::Reader>& readers,
                 std::vector<analysis::TruthRow>& rows) {
  const sim::ReplayPlan plan = plan_of(rows);
  std::map<PointName, analysis::RunRow> replayed;
  analysis::RunAccumulator accumulator(
      plan, analysis::evidence_spans(readers), {}, [&](analysis::SequenceResult&& result) {
        for (std::size_t i = 0; i < result.rows.size(); ++i) {
          analysis::RunRow& row = result.rows[i];
          if (!replayed.emplace(name_of(row), row).second) {
            throw Error(ErrorCode::invalid_argument, "two traces have this name; truth.csv tells traces apart by it",
                        {.file = row.trace});
          }
        }
      });
  sim::ReplayOptions options;
  options.threads = arguments.threads;
  options.seed = arguments.seed;
  options.skip_missing_needs = true;
  options.summed_error_directions = analysis::summed_error_directions;
  const traces::StopOnSignal signals;
  sim::replay(readers, plan, options, accumulator, traces::StopOnSignal::requested());
  for (analysis::TruthRow& row : rows) {
    if (!row.run.ok()) continue;
    const auto found = replayed.find(name_of(row.run));
    if (found == replayed.end()) {
      throw Error(ErrorCode::missing_data,
                  fmt::format("no trace given has sequence {} of {} with what {} needs", row.run.sequence,
                              row.run.trace, row.run.policy),
                  {.file = arguments.truth});
    }
    row.run = found->second;
  }
}

/// The sensitivity that the traces carry, which must be one.
std::optional<analysis::DamageLaw> sensitivity_of(const std::vector<traces::Reader>& readers,
                                                  const std::string& model) {
  std::optional<analysis::DamageLaw> law;
  for (const traces::Reader& reader : readers) {
    if (reader.header().model != model) {
      throw Error(
          ErrorCode::invalid_value, fmt::format("truth.csv is of {}", model),
          {.file = reader.path().string(), .dataset = "model", .parameter = {}, .value = reader.header().model});
    }
    const std::optional<analysis::DamageLaw> of_trace = analysis::sensitivity_law(reader.header());
    if (!of_trace) continue;
    if (law && (law->layers != of_trace->layers || law->weights != of_trace->weights)) {
      throw Error(ErrorCode::invalid_value, "is another one than that of the traces before it",
                  {.file = reader.path().string(), .dataset = "/model/sensitivity"});
    }
    law = of_trace;
  }
  return law;
}

void run(CalibrateArguments arguments) {
  arguments.options.fit.form = analysis::law_form_of(arguments.law);
  arguments.options.use_sensitivity = arguments.weights == "sensitivity";
  for (const std::string& input : arguments.traces) {
    std::error_code ignored;
    if (std::filesystem::equivalent(input, arguments.output, ignored)) {
      throw Error(ErrorCode::invalid_argument, "would overwrite an input; give another name",
                  {.parameter = "--output", .value = arguments.output});
    }
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(arguments.truth, arguments.output, ignored)) {
    throw Error(ErrorCode::invalid_argument, "would overwrite an input; give another name",
                {.parameter = "--output", .value = arguments.output});
  }
  std::vector<analysis::TruthRow> rows = analysis::read_truth(arguments.truth);
  std::vector<traces::Reader> readers;
  if (!arguments.traces.empty()) {
    readers = traces::open_traces({arguments.traces.begin(), arguments.traces.end()});
    arguments.options.sensitivity = sensitivity_of(readers, rows.front().model);
  }
  if (arguments.options.use_sensitivity && !arguments.options.sensitivity) {
    throw Error(ErrorCode::missing_data, "needs traces with /model/sensitivity (evictsim-capture sensitivity makes it)",
                {.parameter = "--weights", .value = arguments.weights});
  }
  const bool lacks_errors = std::any_of(rows.begin(), rows.end(), [](const analysis::TruthRow& row) {
    return row.run.ok() && row.run.layer_squared_errors.empty();
  });
  if (lacks_errors && !readers.empty()) {
    try {
      replay_rows(arguments, readers, rows);
    } catch (const Error& problem) {
      if (problem.code() != ErrorCode::interrupted) throw;
      fmt::print(stderr, "interrupted: {} was not written\n", arguments.output);
      throw CLI::RuntimeError(traces::interrupted_status);
    }
  }

  try {
    analysis::CalibrationReport report = analysis::calibrate(rows, arguments.options);
    if (!arguments.model.empty()) report.calibration.model = arguments.model;
    analysis::write_calibration(arguments.output, report.calibration);
    if (arguments.quiet) return;
    fmt::print("{}\nWrote {}.\n", analysis::text_of(report), arguments.output);
  } catch (const Error& problem) {
    if (!problem.context().file.empty()) throw;
    ErrorContext context = problem.context();
    context.file = arguments.truth;
    throw Error(problem.code(), problem.message(), context);
  }
}

}  // namespace

void add_calibrate_command(CLI::App& app) {
  const auto arguments = std::make_shared<CalibrateArguments>();
  CLI::App* command = app.add_subcommand("calibrate", "Fit predicted damage to measured damage of a model");
  command->footer(footer);
  command->add_option("TRUTH", arguments->truth, "truth.csv of `evictsim-capture verify`")->required();
  command->add_option("TRACE", arguments->traces,
                      "Traces of the same runs: for their sensitivity, and to replay what truth.csv lacks");
  command->add_option("-o,--output", arguments->output, "Write weights and residuals to this file")
      ->type_name("model.cal.json")
      ->required();
  command
      ->add_option("--model", arguments->model,
                   "The model's name in the traces to come, where it is another than in truth.csv (quantised, say)")
      ->type_name("NAME");
  command->add_option("--law", arguments->law, "linear, saturating_layer or saturating_total (default)")
      ->type_name("FORM")
      ->check(CLI::IsMember({"linear", "saturating_layer", "saturating_total"}));
  command->add_flag("--fit-exponent", arguments->options.fit.fit_exponent, "Fit g too; it is 1 otherwise");
  command
      ->add_option("--weights", arguments->weights,
                   "fitted, or sensitivity: those of the traces, to which residuals give a band (default: fitted)")
      ->type_name("SOURCE")
      ->check(CLI::IsMember({"fitted", "sensitivity"}));
  command->add_option("--ridge", arguments->options.fit.ridge, "Pull of weights towards each other (default: 0.01)")
      ->type_name("R")
      ->check(CLI::Range(1e-9, 1e3));
  command
      ->add_option("--folds", arguments->options.folds, "Groups of texts held out in turn (default: every text alone)")
      ->type_name("K")
      ->check(CLI::Range(2, 1000));
  command
      ->add_option("--coverage", arguments->options.coverage, "Share of points that bands are to hold (default: 0.9)")
      ->type_name("C")
      ->check(CLI::Range(0.5, 0.99));
  command
      ->add_option("--smallest-kl", arguments->options.smallest_kl,
                   "Leave out points below this KL, which are rounding (default: 1e-6)")
      ->type_name("KL")
      ->check(CLI::Range(1e-12, 1.0));
  command->add_option("--threads", arguments->threads, "Threads of replays; results do not depend on it")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command->add_option("--seed", arguments->seed, "Seed of policies that draw random numbers, as it was in the run")
      ->type_name("S");
  command->add_flag("--quiet,-q", arguments->quiet, "Print nothing");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace evictsim
