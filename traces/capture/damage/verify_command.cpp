#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <tuple>

#include "analysis/csv.h"
#include "policies/budget.h"
#include "policies/policy.h"
#include "traces/capture/batch_file.h"
#include "traces/capture/command_options.h"
#include "traces/capture/damage/commands.h"
#include "traces/capture/damage/text_arguments.h"
#include "traces/capture/damage/verify.h"
#include "traces/error.h"
#include "traces/stop_on_signal.h"

namespace evictsim::traces::capture {
namespace {

constexpr const char* footer = R"(Examples:
  evictsim-capture verify --model M.gguf --prompt a.txt,b.txt --policy snapkv,tova --budget 0.1,0.3 --csv truth.csv
      Each file is a prompt; what the model answers greedily is run again under every policy and budget.
  evictsim-capture verify --model M.gguf --prompt novel.txt --text prose,facts --length 512,1024 \
      --policy snapkv,h2o --budget 0.1,0.2,0.5 --csv truth.csv --traces truth/
      Prompts of 512 and 1024 tokens out of a long text, as it is and with facts in it that are asked for again.

Columns of truth.csv: docs/damage.md. How it is done, and why a float32 GGUF is advised: docs/capture.md.
Exit status: 0 done, 1 bad input or a point failed, 2 bad usage, 130 interrupted (finished rows are kept).)";

struct Arguments {
  VerifyPlan plan;
  EngineArguments engine = EngineArguments::exact();
  TextArguments texts;
  SequencePlan sequence;  ///< of prompts that are taken whole
  std::vector<std::string> policies, budgets;
  std::string batch_file, continuation_file, continuation_tokens_file, csv, trace_directory;
  bool resume = false;
};

/// Rows into the CSV file, a line about each to the terminal.
class Rows final : public VerifyObserver {
 public:
  Rows(const Arguments& arguments, const Header& header) : model_(header.model) {
    const std::vector<std::string> columns = analysis::truth_column_names(header.layers);
    std::error_code ignored;
    if (arguments.resume && std::filesystem::exists(arguments.csv, ignored)) {
      csv_.emplace(analysis::CsvFile::resume(arguments.csv, columns));
      for (const analysis::TruthRow& row : known_rows(arguments.csv)) {
        known_.emplace(row.model, row.text, row.run.policy, row.run.budget);
      }
    } else {
      csv_.emplace(arguments.csv, columns);
    }
  }

  bool is_known(const std::string& text, const std::string& policy, const std::string& budget) override {
    return known_.contains({model_, text, policy, budget});
  }
  void began(const std::string& text, const NextTokenChange& uncut) override {
    fmt::print("{}: nothing cut, attention by the replay's code: KL {:.1e}\n", text, uncut.kl);
  }
  void measured(const analysis::TruthRow& row) override {
    csv_->append(analysis::csv_line(analysis::truth_cells(row)));
    ++rows_;
    if (row.run.ok()) {
      fmt::print("{}: {} {}: KL {:.4g}, top-1 {:.3f}, {:.2f} s\n", row.text, row.run.policy, row.run.budget, row.kl,
                 row.top1_agreement, row.seconds);
    } else {
      any_failed_ = true;
      fmt::print(stderr, "evictsim-capture: {}: {} {}: {}\n", row.text, row.run.policy, row.run.budget, row.run.status);
    }
    std::fflush(stdout);
  }
  void skipped(const std::string& text, const std::string& policy, const std::string& why) override {
    fmt::print(stderr, "evictsim-capture: {}: {} is skipped: {}\n", text, policy, why);
  }

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] bool any_failed() const { return any_failed_; }

 private:
  /// None where the file ends behind its header.
  static std::vector<analysis::TruthRow> known_rows(const std::string& path) {
    try {
      return analysis::read_truth(path);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::missing_data) return {};
      throw;
    }
  }

  std::string model_;
  bool any_failed_ = false;
  std::size_t rows_ = 0;
  std::optional<analysis::CsvFile> csv_;
  std::set<std::tuple<std::string, std::string, std::string, std::string>> known_;
};

sim::ReplayPlan points_of(const Arguments& arguments) {
  std::vector<policies::Budget> budgets;
  for (const std::string& budget : arguments.budgets) budgets.push_back(policies::Budget::parse(budget));
  return sim::ReplayPlan::of(policies::parse_policies(fmt::format("{}", fmt::join(arguments.policies, ","))), budgets);
}

std::vector<SequencePlan> texts_of(const Arguments& arguments, const LlamaModel& model) {
  if (!arguments.texts.kinds.empty()) return arguments.texts.made(model);
  SequencePlan whole = arguments.sequence;
  whole.decode = arguments.texts.rows;
  if (!arguments.continuation_file.empty()) whole.continuation = read_text(arguments.continuation_file);
  if (!arguments.continuation_tokens_file.empty()) {
    whole.continuation_tokens = read_tokens(arguments.continuation_tokens_file);
  }
  std::vector<SequencePlan> texts;
  const auto add = [&](const std::string& file) -> SequencePlan& {
    texts.push_back(whole);
    texts.back().id = std::filesystem::path(file).stem().string();
    return texts.back();
  };
  for (const std::string& file : arguments.texts.prompts) add(file).prompt = read_text(file);
  for (const std::string& file : arguments.texts.prompt_tokens) add(file).prompt_tokens = read_tokens(file);
  if (!arguments.batch_file.empty()) {
    for (BatchEntry& entry : parse_batch(read_text(arguments.batch_file), arguments.batch_file, whole)) {
      texts.push_back(std::move(entry.sequence));
    }
  }
  return texts;
}

void require_texts(const std::vector<SequencePlan>& texts) {
  if (texts.empty()) {
    throw Error(ErrorCode::invalid_argument, "a text is needed: --prompt, --prompt-tokens, --prompts or --text",
                {.parameter = "prompt"});
  }
  std::set<std::string> names;
  for (const SequencePlan& text : texts) {
    if (names.insert(text.id).second) continue;
    throw Error(ErrorCode::invalid_argument, "two texts have the same name, which their rows are known by",
                {.parameter = "prompt", .value = text.id});
  }
}

int run(Arguments& arguments, const CLI::App& command) {
  arguments.plan.engine = arguments.engine.complete(command);
  arguments.plan.points = points_of(arguments);
  arguments.plan.trace_directory = arguments.trace_directory;
  const Verification verification(arguments.plan);
  const std::vector<SequencePlan> texts = texts_of(arguments, verification.model().model());
  require_texts(texts);
  Rows rows(arguments, verification.model().header());
  const StopOnSignal signals;
  try {
    for (const SequencePlan& text : texts) verification.run(text, rows, StopOnSignal::requested());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::interrupted) throw;
    fmt::print(stderr, "evictsim-capture: interrupted; {} holds {} new rows\n", arguments.csv, rows.rows());
    return interrupted_status;
  }
  fmt::print("{}: {} new rows\n", arguments.csv, rows.rows());
  for (const auto& [policy, why] : verification.refused()) {
    fmt::print(stderr, "evictsim-capture: {} was not run: it {}\n", policy, why);
  }
  return rows.any_failed() ? 1 : 0;
}

}  // namespace

void add_verify_command(CLI::App& app, int& status) {
  auto* command = app.add_subcommand("verify", "Runs a GGUF model under eviction policies and says what they cost it");
  command->footer(footer);
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--model", arguments->plan.model, "GGUF model file")->required();
  arguments->texts.add_to(*command,
                          "make prompts out of the files: prose, copy (a part is repeated), facts (planted, and asked "
                          "for again); default: each file is a prompt as it is, and the model answers it greedily");
  command->get_option("--length")->needs("--text");
  command->add_option("--prompts", arguments->batch_file, "many prompts, a JSON object a line, as `run` takes them")
      ->excludes("--text");
  command
      ->add_option("--continuation", arguments->continuation_file,
                   "text file behind the prompt, in place of the model's own answer")
      ->excludes("--text");
  command->add_option("--continuation-tokens", arguments->continuation_tokens_file, "the same as token ids")
      ->excludes("--text")
      ->excludes("--continuation");
  command
      ->add_flag("--chat-template", arguments->sequence.chat_template,
                 "wrap prompts as a user message in the model's template")
      ->excludes("--text");
  command->add_flag("--ignore-end", arguments->sequence.ignore_end, "go on behind the model's end of answer");
  // A list, but not CLI's: commas inside parentheses belong to a policy.
  command->add_option("--policy", arguments->policies, "policies as `evictsim replay` takes them")->required();
  command->add_option("--budget", arguments->budgets, "shares of the prompt or entries per KV head")
      ->delimiter(',')
      ->required();
  command->add_option("--seed", arguments->plan.seed, "of policies that draw random numbers")->capture_default_str();
  command->add_option("--csv", arguments->csv, "file of results, a row per text, policy and budget")->required();
  command->add_flag("--resume", arguments->resume, "go on with that file: rows that it has are not run again");
  command->add_option("--traces", arguments->trace_directory, "directory in which the texts' traces stay");
  arguments->engine.add_to(*command);
  command->callback([arguments, command, &status] { status = run(*arguments, *command); });
}

}  // namespace evictsim::traces::capture
