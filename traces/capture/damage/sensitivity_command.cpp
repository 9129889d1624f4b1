#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "analysis/csv.h"
#include "traces/capture/command_options.h"
#include "traces/capture/damage/commands.h"
#include "traces/capture/damage/sensitivity.h"
#include "traces/capture/damage/text_arguments.h"
#include "traces/error.h"
#include "traces/stop_on_signal.h"

namespace evictsim::traces::capture {
namespace {

constexpr const char* footer = R"(Examples:
  evictsim-capture sensitivity --model M.gguf --into trace.h5
      Measures with the built-in prose, facts and a copy, and stores what belongs to the trace's layers in it.
  evictsim-capture sensitivity --model M.gguf --prompt novel.txt --text facts,prose --draws 2 --csv probe.csv

What is measured, and how long it takes: docs/capture.md. Exit status: 0 done, 1 bad input, 2 bad usage, 130 interrupted.)";

struct Arguments {
  SensitivityPlan plan;
  EngineArguments engine = EngineArguments::exact();
  TextArguments texts;
  std::string trace, output, csv;
};

/// A short prompt where the model's context has no room for the usual one.
void fit_length(TextArguments& texts, const LlamaModel& model) {
  if (texts.lengths.empty()) texts.lengths = {std::min(512, model.context_length() - texts.rows)};
}

void print(const Sensitivity& sensitivity) {
  fmt::print("layer  KL per squared error\n");
  for (std::size_t layer = 0; layer < sensitivity.weights.size(); ++layer) {
    fmt::print("{:5}  {:.6g}\n", layer, sensitivity.weights[layer]);
  }
}

int run(Arguments& arguments, const CLI::App& command) {
  arguments.plan.engine = arguments.engine.complete(command);
  if (arguments.texts.kinds.empty()) arguments.texts.kinds = {"facts", "copy", "prose"};
  const SensitivityProbe probe(arguments.plan);
  fit_length(arguments.texts, probe.model().model());
  const std::vector<SequencePlan> texts = arguments.texts.made(probe.model().model());
  std::optional<analysis::CsvFile> csv;
  const std::vector<std::string> columns = {"text", "draw", "layer", "kl", "rounding", "squared_error"};
  if (!arguments.csv.empty()) csv.emplace(arguments.csv, columns);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const int last = probe.model().header().num_layers - 1;
  const auto done = [&](const ProbePoint& point) {
    if (csv) {
      csv->append(analysis::csv_line(std::vector<std::string>{
          point.text, std::to_string(point.draw), std::to_string(point.layer), analysis::decimal(point.kl),
          analysis::decimal(point.rounding), analysis::decimal(point.squared_error)}));
    }
    if (terminal) {
      fmt::print(stderr, "\r{} draw {}: layer {} of {}{}", point.text, point.draw, point.layer, last,
                 point.layer == last ? "\n" : "");
    }
  };
  const StopOnSignal signals;
  try {
    const Sensitivity sensitivity = probe.measure(texts, done, StopOnSignal::requested());
    print(sensitivity);
    if (arguments.trace.empty()) return 0;
    const std::string& output = arguments.output.empty() ? arguments.trace : arguments.output;
    probe.store(sensitivity, arguments.trace, output);
    fmt::print("{}: /model/sensitivity written\n", output);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::interrupted) throw;
    fmt::print(stderr, "\nevictsim-capture: interrupted; nothing was stored\n");
    return interrupted_status;
  }
  return 0;
}

}  // namespace

void add_sensitivity_command(CLI::App& app, int& status) {
  auto* command = app.add_subcommand("sensitivity", "Measures how much the attention error of each layer matters");
  command->footer(footer);
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--model", arguments->plan.model, "GGUF model file")->required();
  arguments->texts.add_to(*command,
                          "kinds of text made out of the files: prose, copy (a part is repeated), facts (planted, and "
                          "asked for again); default: all three");
  command->add_option("--draws", arguments->plan.draws, "random cuts per text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seed", arguments->plan.seed, "of the draws")->capture_default_str();
  auto* into = command->add_option("--into", arguments->trace, "trace that gets /model/sensitivity of its layers");
  command->add_option("-o,--output", arguments->output, "write a copy of that trace instead")->needs(into);
  command->add_option("--csv", arguments->csv, "file of what every text and draw gave, a row per layer");
  arguments->engine.add_to(*command);
  command->callback([arguments, command, &status] { status = run(*arguments, *command); });
}

}  // namespace evictsim::traces::capture
