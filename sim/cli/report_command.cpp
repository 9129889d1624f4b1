#include "sim/cli/report_command.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "analysis/replay_timeline.h"
#include "analysis/report/compare.h"
#include "analysis/report/page/page.h"
#include "analysis/report/report.h"
#include "analysis/report/text_file.h"
#include "analysis/report/text_report.h"
#include "analysis/report/timeline.h"
#include "sim/cli/shell_line.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim {
namespace {

using analysis::ReportInputs;

constexpr const char* footer = R"(Examples:
  evictsim report run.h5 plan.h5 -o report.html
      One page that works from disk: curves, where it hurts, tokens, memory, the plan.
  evictsim report run.h5 --text
      Tables and small curves for a terminal. So does a report without any output.
  evictsim report run.h5 plan.h5 --svg figures
      Every figure of the page as a vector graphic.
  evictsim report --compare a.h5 b.h5 --metric retained_mass --csv differences.csv
      Two runs side by side, with significance over the sequences that both hold.
  evictsim report run.h5 --timeline timeline.json
      What lies where while each sequence is decoded, for Perfetto; needs a replay with --per steps.

For all sections of the page: evictsim replay ... --per layer,head,entry,steps -o run.h5.
What each section shows and where its numbers come from: docs/report.md.
Exit status: 0 done, 1 bad input, 2 bad usage.)";

struct Arguments {
  std::vector<std::string> files, compared;
  std::string page, figures, csv, timeline;
  std::string metric;
  std::string command_line;
  bool text = false, quiet = false;
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

/// Outputs must not overwrite inputs or one another.
void require_separate(const Arguments& arguments) {
  std::vector<std::filesystem::path> taken(arguments.files.begin(), arguments.files.end());
  taken.insert(taken.end(), arguments.compared.begin(), arguments.compared.end());
  for (const auto& [option, path] : {std::pair{"--output", &arguments.page}, std::pair{"--csv", &arguments.csv},
                                     std::pair{"--timeline", &arguments.timeline}}) {
    if (path->empty()) continue;
    for (const std::filesystem::path& other : taken) {
      std::error_code ignored;
      if (!std::filesystem::equivalent(*path, other, ignored) &&
          std::filesystem::weakly_canonical(*path, ignored) != std::filesystem::weakly_canonical(other, ignored)) {
        continue;
      }
      throw Error(ErrorCode::invalid_argument, "would overwrite an input or another output; give another name",
                  {.parameter = option, .value = *path});
    }
    traces::require_replaceable(*path);
    taken.emplace_back(*path);
  }
}

void write_figures(const std::string& json, const std::filesystem::path& folder, std::string& written) {
  const auto figures = analysis::report_figures(json);
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) throw traces::system_error(problem.value(), folder, "create the folder");
  for (const auto& [name, svg] : figures) {
    analysis::write_text_file(folder / name, svg);
    written += fmt::format("Wrote {}.\n", (folder / name).string());
  }
}

/// Null: each run's default.
const analysis::ShownMetric* chosen_metric(const Arguments& arguments) {
  return arguments.metric.empty() ? nullptr : &analysis::shown_metric(arguments.metric, "--metric");
}

/// That of the terminal; elsewhere what most editors and pagers show.
std::size_t output_width() {
  constexpr std::size_t narrowest = 60, usual = 120;
  winsize window{};
  if (isatty(STDOUT_FILENO) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0) return usual;
  return std::max<std::size_t>(window.ws_col, narrowest);
}

void compare(const Arguments& arguments) {
  const analysis::ShownMetric* metric = chosen_metric(arguments);
  const analysis::RunReader left(arguments.compared.at(0)), right(arguments.compared.at(1));
  const analysis::PointGrid grid(left.contents()), other(right.contents());
  if (metric == nullptr && grid.default_metric() == other.default_metric()) metric = grid.default_metric();
  if (metric == nullptr) metric = &analysis::shown_metrics().front();
  if (!arguments.csv.empty()) analysis::write_text_file(arguments.csv, analysis::comparison_csv(grid, other));
  if (!arguments.quiet) print(analysis::comparison_text(grid, other, *metric));
}

void report(const Arguments& arguments) {
  const analysis::ShownMetric* metric = chosen_metric(arguments);
  const ReportInputs inputs = ReportInputs::open(arguments.files);
  if (!arguments.timeline.empty() && inputs.runs.empty()) {
    throw Error(ErrorCode::invalid_argument,
                "shows what runs held by step; that of a plan's requests comes from evictsim plan --timeline FILE.json",
                {.file = inputs.plans.front().path, .parameter = "--timeline"});
  }
  std::string written;
  if (!arguments.page.empty() || !arguments.figures.empty()) {
    const std::string json = analysis::report_json(inputs, arguments.command_line);
    if (!arguments.page.empty()) {
      analysis::write_text_file(arguments.page, analysis::report_page(json, analysis::report_title(inputs)));
      written += fmt::format("Wrote {}.\n", arguments.page);
    }
    if (!arguments.figures.empty()) write_figures(json, arguments.figures, written);
  }
  if (!arguments.timeline.empty()) {
    analysis::write_replay_timeline(arguments.timeline, analysis::replay_timelines(inputs.runs));
    written += fmt::format("Wrote {}.\n", arguments.timeline);
  }
  if (arguments.text || written.empty()) print(analysis::text_report(inputs, metric, output_width()));
  if (!arguments.quiet) print(written);
}

}  // namespace

void add_report_command(CLI::App& app, const std::vector<std::string>& words) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->command_line = shell_line(words);
  CLI::App* command = app.add_subcommand("report", "Show what a replay and a plan found: a page, text, or figures");
  command->footer(footer);
  command->add_option("FILE", arguments->files,
                      "Files of replay -o, replay --dump and plan -o; traces, for the text of their tokens");
  command->add_option("-o,--output", arguments->page, "Write one self-contained page")->type_name("report.html");
  command->add_option("--svg", arguments->figures, "Write every figure of the page as SVG into this folder")
      ->type_name("DIR");
  command->add_flag("--text", arguments->text, "Print tables and small curves; so does a report without an output");
  CLI::Option* compared =
      command->add_option("--compare", arguments->compared, "Instead: print the differences between two run files")
          ->type_name("A.h5 B.h5")
          ->expected(2);
  command
      ->add_option("--metric", arguments->metric,
                   "What --text and --compare show: a column of run.csv (default: predicted_kl where every row has it, "
                   "else output_error)")
      ->type_name("NAME");
  CLI::Option* csv =
      command->add_option("--csv", arguments->csv, "With --compare: write the differences of all metrics")
          ->type_name("FILE");
  command->add_option("--timeline", arguments->timeline, "Write what lies where over the steps, for Perfetto")
      ->type_name("FILE.json");
  command->add_flag("-q,--quiet", arguments->quiet, "Print nothing but what --text asks for");
  csv->needs(compared);
  command->callback([arguments] {
    if (arguments->compared.empty() && arguments->files.empty()) throw CLI::RequiredError("FILE");
    if (!arguments->compared.empty() && !(arguments->files.empty() && arguments->page.empty() &&
                                          arguments->figures.empty() && arguments->timeline.empty())) {
      throw CLI::ValidationError("--compare", "compares two run files and nothing else");
    }
    require_separate(*arguments);
    if (arguments->compared.empty()) {
      report(*arguments);
    } else {
      compare(*arguments);
    }
  });
}

}  // namespace evictsim
