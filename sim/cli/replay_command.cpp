#include "sim/cli/replay_command.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/damage/predictor.h"
#include "analysis/damage/ranking.h"
#include "analysis/table.h"
#include "policies/budget.h"
#include "policies/policy.h"
#include "sim/cli/plugin_option.h"
#include "sim/cli/replay_outputs.h"
#include "sim/cli/shell_line.h"
#include "sim/replay/replay.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/stop_on_signal.h"

namespace evictsim {
namespace {

constexpr int failed_status = 1;
constexpr std::uint64_t largest_seed = std::numeric_limits<std::int64_t>::max();  // run.h5 holds it as int64

constexpr const char* footer = R"(Examples:
  evictsim replay trace.h5 --policy snapkv,tova,h2o --budget 0.1,0.2,0.5
      Three policies that keep 10, 20 and 50 % of the prompt; prints a table.
  evictsim replay trace.h5 --policy all --csv run.csv -o run.h5
      Every registered policy with its defaults at six budgets.
  evictsim replay trace.h5 --policy 'snapkv(window=16),adakv(snapkv)' --budget 512
      Parameters in parentheses (quote them for the shell); 512 entries per KV head.
  evictsim replay trace.h5 --policy 'kvpress:SnapKVPress(window_size=16)' --compression-ratio 0.8
      A press as kvpress writes it; 80 % of the prompt removed, counted as that library does.
  evictsim replay trace.h5 --policy all --budget 0.2 --calibration model.cal.json --rank
      In the order of predicted damage, with bands. The file is of the trace's model; `evictsim calibrate --model NAME`
      makes it one of the same weights under another name.

Budgets: 0.2 is a share of the prompt's entries kept per KV head on average, 1 keeps all, 512 is a number of entries.
`evictsim policies` lists the policies, `evictsim policies NAME` explains one.
run.csv has one row per trace, sequence, policy and budget; its columns, run.h5 and the dump: docs/run-file.md.
Exit status: 0 done, 1 bad input or a policy failed, 2 bad usage, 130 interrupted (finished rows are kept).)";

/// The options as given.
struct Arguments {
  std::vector<std::string> traces, policies, budgets, ratios, layers, per, plugins;
  std::string run_file, csv, dump, events, calibration;
  std::string command_line;  ///< as typed
  int threads = 0;
  std::uint64_t seed = 0;
  int useful_entries = 32;
  int sink_entries = 4;
  std::optional<double> coverage;  ///< of the bands around predicted damage
  bool rank = false;
  bool quiet = false;
};

constexpr double usual_coverage = 0.9;

/// The elements of comma-separated lists.
std::vector<std::string> split(const std::vector<std::string>& lists) {
  std::vector<std::string> elements;
  for (const std::string& list : lists) {
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      elements.push_back(list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return elements;
}

std::vector<policies::Budget> budgets_of(const Arguments& arguments) {
  std::vector<policies::Budget> budgets;
  const auto add = [&budgets](const policies::Budget& budget) {
    if (std::find(budgets.begin(), budgets.end(), budget) == budgets.end()) budgets.push_back(budget);
  };
  for (const std::string& text : split(arguments.budgets)) add(policies::Budget::parse(text));
  for (const std::string& text : split(arguments.ratios)) add(policies::Budget::from_compression_ratio(text));
  if (budgets.empty()) {
    for (const char* text : {"0.1", "0.2", "0.3", "0.5", "0.7", "0.9"}) add(policies::Budget::parse(text));
  }
  return budgets;
}

std::vector<policies::Policy> policies_of(const Arguments& arguments) {
  std::vector<policies::Policy> policies;
  for (const std::string& list : arguments.policies) {
    for (policies::Policy& policy : policies::parse_policies(list)) {
      const bool known = std::any_of(policies.begin(), policies.end(),
                                     [&](const policies::Policy& other) { return other.name == policy.name; });
      if (!known) policies.push_back(std::move(policy));
    }
  }
  return policies;
}

int layer_number(std::string_view text, const std::string& element) {
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size() || number < 0) {
    throw Error(ErrorCode::invalid_argument, "must be layer indices or ranges, such as 0,9,20-29",
                {.parameter = "--layers", .value = element});
  }
  return number;
}

std::vector<int> layers_of(const Arguments& arguments) {
  constexpr int most_layers = 1000;  // the format writes three digits
  std::vector<int> layers;
  for (const std::string& element : split(arguments.layers)) {
    const std::size_t dash = element.find('-');
    const int first = layer_number(std::string_view(element).substr(0, dash), element);
    const int last =
        dash == std::string::npos ? first : layer_number(std::string_view(element).substr(dash + 1), element);
    if (last < first || last >= most_layers) {
      throw Error(ErrorCode::invalid_argument, "ranges go upwards, and layers from 0 to 999",
                  {.parameter = "--layers", .value = element});
    }
    for (int layer = first; layer <= last; ++layer) layers.push_back(layer);
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

analysis::Provenance provenance_of(const Arguments& arguments, const std::vector<traces::Reader>& readers) {
  analysis::Provenance provenance;
  provenance.command_line = arguments.command_line;
  provenance.seed = arguments.seed;
  provenance.created = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  for (const traces::Reader& reader : readers) {
    provenance.inputs.push_back({reader.path().string(), reader.checksum(), reader.header().model});
  }
  return provenance;
}

void warn_of_fixed_budgets(const std::vector<policies::Policy>& policies, const Arguments& arguments) {
  if (arguments.budgets.empty() && arguments.ratios.empty()) return;
  for (const policies::Policy& policy : policies) {
    if (!policy.fixed_budget) continue;
    fmt::print(stderr, "warning: {}: fixes its own budget {}; --budget and --compression-ratio do not apply to it\n",
               policy.name, policy.fixed_budget->text());
  }
}

/// The command line without what the dump's content does not depend on: threads, and names of outputs.
std::string dump_command_line_of(const Arguments& arguments) {
  std::vector<std::string> words = {"evictsim", "replay"};
  words.insert(words.end(), arguments.traces.begin(), arguments.traces.end());
  const auto add = [&words](const char* option, const std::vector<std::string>& values) {
    for (const std::string& value : values) words.insert(words.end(), {option, value});
  };
  add("--plugin", arguments.plugins);
  add("--policy", arguments.policies);
  add("--budget", arguments.budgets);
  add("--compression-ratio", arguments.ratios);
  add("--layers", arguments.layers);
  add("--seed", {std::to_string(arguments.seed)});
  return shell_line(words);
}

/// Message about a seed that is none; empty otherwise.
std::string seed_problem(const std::string& text) {
  std::uint64_t seed = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (failure == std::errc() && end == text.data() + text.size() && seed <= largest_seed) return {};
  return fmt::format("{} is no whole number from 0 to {}", text, largest_seed);
}

/// How damage is predicted. Says which traces the calibration does not fit, and what they have instead.
analysis::DamagePredictor predictor_of(const Arguments& arguments, const std::vector<traces::Reader>& readers) {
  std::optional<analysis::DamageCalibration> calibration;
  if (!arguments.calibration.empty()) calibration = analysis::read_calibration(arguments.calibration);
  std::vector<traces::Header> headers;
  for (const traces::Reader& reader : readers) headers.push_back(reader.header());
  analysis::DamagePredictor predictor(std::move(headers), std::move(calibration),
                                      arguments.coverage.value_or(usual_coverage));
  if (arguments.calibration.empty()) return predictor;
  for (std::size_t trace = 0; trace < readers.size(); ++trace) {
    if (predictor.problem(trace).empty()) continue;
    fmt::print(
        stderr,
        "warning: {}: predicted damage: {}; {} (for a trace of the same weights under another name: `evictsim "
        "calibrate --model NAME`)\n",
        readers[trace].path().string(), predictor.problem(trace),
        predictor.predicts(trace) ? "the trace's own sensitivity is used, without bands" : "nothing is predicted");
  }
  return predictor;
}

void print_results(const ReplayOutputs& outputs, const Arguments& arguments) {
  const std::string written = outputs.written();
  if (arguments.quiet) return;
  if (arguments.rank) {
    fmt::print("{}\n",
               analysis::text_of(analysis::rank_policies(outputs.rows()), arguments.coverage.value_or(usual_coverage)));
  }
  const std::string table = arguments.rank ? std::string() : analysis::output_error_table(outputs.rows());
  if (!table.empty()) fmt::print("{}\n{}\n", table, analysis::open_loop_caveat);
  if (!written.empty()) fmt::print("{}\n", written);
}

/// Whether the replay came to its end; if not, it was interrupted. Whatever happens, finished sequences are kept.
bool replay_into(ReplayOutputs& outputs, const std::vector<traces::Reader>& readers, const sim::ReplayPlan& plan,
                 const sim::ReplayOptions& options) {
  try {
    const traces::StopOnSignal signals;
    sim::replay(readers, plan, options, outputs.observer(), traces::StopOnSignal::requested());
  } catch (const Error& problem) {
    if (problem.code() == ErrorCode::interrupted || !outputs.rows().empty()) outputs.seal(false);
    if (problem.code() == ErrorCode::interrupted) return false;
    if (problem.code() != ErrorCode::missing_need) throw;
    throw Error(problem.code(), fmt::format("{}{}", problem.message(), layers_hint(problem.message())),
                problem.context());
  }
  outputs.seal(true);
  return true;
}

void run(const Arguments& arguments) {
  load_plugins(arguments.plugins);
  // Everything that can be wrong with the arguments, before any file is opened.
  std::vector<policies::Policy> policies = policies_of(arguments);
  const std::vector<policies::Budget> budgets = budgets_of(arguments);
  OutputOptions output{.run_file = arguments.run_file,
                       .csv = arguments.csv,
                       .dump = arguments.dump,
                       .events = arguments.events,
                       .calibration = arguments.calibration,
                       .dump_command_line = dump_command_line_of(arguments),
                       .per = {},
                       .quiet = arguments.quiet};
  if (!arguments.per.empty()) {
    output.per = analysis::DetailAxes::parse(fmt::format("{}", fmt::join(arguments.per, ",")));
    if (arguments.run_file.empty()) {
      throw Error(ErrorCode::invalid_argument, "needs -o run.h5, where the detail goes", {.parameter = "--per"});
    }
  }
  if (arguments.coverage && arguments.calibration.empty()) {
    throw Error(ErrorCode::invalid_argument, "needs --calibration, whose residuals give the bands",
                {.parameter = "--coverage"});
  }
  sim::ReplayOptions options;
  options.summed_error_directions = analysis::summed_error_directions;
  options.threads = arguments.threads;
  options.seed = arguments.seed;
  options.layers = layers_of(arguments);
  options.useful_entries = arguments.useful_entries;
  options.sink_entries = arguments.sink_entries;
  options.with_stored = output.per.any_step();
  options.with_entries = output.per.entry;
  options.with_scores = options.with_resident = !arguments.dump.empty();
  options.skip_missing_needs = policies.size() > 1;
  warn_of_fixed_budgets(policies, arguments);

  const std::vector<traces::Reader> readers = traces::open_traces({arguments.traces.begin(), arguments.traces.end()});
  require_separate_outputs(output, readers);
  const sim::ReplayPlan plan = sim::ReplayPlan::of(std::move(policies), budgets);
  analysis::Provenance provenance;
  if (!arguments.run_file.empty() || !arguments.dump.empty()) provenance = provenance_of(arguments, readers);

  ReplayOutputs outputs(output, plan, readers, std::move(provenance), predictor_of(arguments, readers));
  const bool complete = replay_into(outputs, readers, plan, options);
  print_results(outputs, arguments);
  if (!complete) {
    fmt::print(stderr, "interrupted: {} finished rows are kept\n", outputs.rows().size());
    throw CLI::RuntimeError(traces::interrupted_status);
  }
  if (outputs.rows().empty()) {
    throw Error(ErrorCode::missing_need, "no policy could be replayed: every one lacks data in these traces");
  }
  if (outputs.any_failed()) throw CLI::RuntimeError(failed_status);
}

}  // namespace

void add_replay_command(CLI::App& app, const std::vector<std::string>& words) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->command_line = shell_line(words);
  CLI::App* command = app.add_subcommand("replay", "Replay traces under policies and budgets");
  command->footer(footer);
  const auto list = [command](const char* names, std::vector<std::string>& values, const char* help) {
    // One value per mention, so that a list never swallows the trace behind it.
    return command->add_option(names, values, help)->allow_extra_args(false);
  };
  command->add_option("TRACE", arguments->traces, "Trace files, or folders with a manifest.jsonl")->required();
  list("--policy,-p", arguments->policies, "Policies, separated by commas; `all`: every registered one")
      ->type_name("P,...")
      ->required();
  add_plugin_option(*command, arguments->plugins);
  list("--budget,-b", arguments->budgets,
       "Budgets: shares of the prompt kept (0.2) or entries per KV head (512)\n(default: 0.1,0.2,0.3,0.5,0.7,0.9)")
      ->type_name("B,...");
  list("--compression-ratio", arguments->ratios,
       "Instead, or in addition: shares of the prompt removed, as kvpress counts")
      ->type_name("R,...");
  command->add_option("-o,--output", arguments->run_file, "Write everything to this HDF5 file")->type_name("run.h5");
  command->add_option("--csv", arguments->csv, "Write one row per sequence, policy and budget")->type_name("run.csv");
  command->add_option("--dump", arguments->dump, "Write which entries each policy keeps, and their scores")
      ->type_name("kept.h5");
  command->add_option("--events", arguments->events, "Write what caches do step by step: evictions, demotions, recalls")
      ->type_name("events.csv");
  list("--per", arguments->per, "Detail for run.h5 by these axes: layer, head, step, entry; steps: by step beside them")
      ->type_name("AXIS,...");
  list("--layers", arguments->layers, "Layers of the model to replay, such as 0,9,20-29 (default: all captured)")
      ->type_name("N,...");
  command->add_option("--threads", arguments->threads, "Threads; results do not depend on it (default: all cores)")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command->add_option("--seed", arguments->seed, "Seed of policies that draw random numbers (default: 0)")
      ->type_name("S")
      ->check(CLI::Validator(seed_problem, ""));
  command
      ->add_option(
          "--useful-entries", arguments->useful_entries,
          "Entries in the useful set of the dilution where a sequence has no evidence spans, and of those attended\n"
          "most that premature evictions are a share of (default: 32)")
      ->type_name("M")
      ->check(CLI::Range(1, 1 << 30));
  command
      ->add_option("--sink-entries", arguments->sink_entries,
                   "Tokens at the start of a sequence that count as attention sinks (default: 4)")
      ->type_name("S")
      ->check(CLI::Range(0, 1 << 30));
  command
      ->add_option(
          "--calibration", arguments->calibration,
          "Predict damage with this file of `evictsim calibrate`; traces of other models keep their sensitivity")
      ->type_name("model.cal.json");
  command
      ->add_option("--coverage", arguments->coverage,
                   "Share of points that the bands of predicted damage hold (default: 0.9)")
      ->type_name("C")
      ->check(CLI::Range(0.5, 0.99));
  command->add_flag("--rank", arguments->rank, "Print policies in the order of their predicted damage, by budget");
  command->add_flag("--quiet,-q", arguments->quiet, "Print neither progress nor table");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace evictsim
