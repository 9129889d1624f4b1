// The evictsim executable: registers the commands, and turns failures into one line and an exit status.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "analysis/version.h"
#include "policies/formula/parser.h"
#include "sim/cli/cache_command.h"
#include "sim/cli/calibrate_command.h"
#include "sim/cli/plan_command.h"
#include "sim/cli/policies_command.h"
#include "sim/cli/replay_command.h"
#include "sim/cli/report_command.h"
#include "sim/cli/trace_command.h"
#include "traces/error.h"
#include "traces/hdf5_exit.h"

namespace {

constexpr int failed = 1;
constexpr int bad_usage = 2;

int report(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  return failed;
}

/// Says what is wrong with the command line. CLI11 misses what is required before it objects to what it does not know,
/// although a mistyped name is the likelier cause.
int report_usage(const CLI::App& app, const CLI::ParseError& problem) {
  std::string what = problem.what();
  const std::vector<std::string> unknown = app.remaining(true);
  if (!unknown.empty()) {
    what = (unknown.front().rfind('-', 0) == 0 ? "unknown option " : "unknown command or argument ") + unknown.front();
  }
  report(what + " (see --help)");
  return bad_usage;
}

/// Layers come and go at the same sizes: what is given back to the system between two of them would be cleared anew.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

int run(int argument_count, char** arguments) {
  CLI::App app(
      "Replays recorded attention of LLM runs under KV-cache eviction policies, and simulates serving: what each "
      "costs.",
      "evictsim");
  app.set_version_flag("--version", std::string("evictsim ") + evictsim::analysis::version());
  app.require_subcommand(1);
  app.footer(
      "`evictsim COMMAND --help` explains a command.\nExit status: 0 done, 1 bad input or a failed check, 2 bad "
      "usage.");
  evictsim::add_trace_command(app);
  evictsim::add_policies_command(app);
  evictsim::add_replay_command(app, {arguments, arguments + argument_count});
  evictsim::add_calibrate_command(app);
  evictsim::add_cache_command(app);
  evictsim::add_plan_command(app, {arguments, arguments + argument_count});
  evictsim::add_report_command(app, {arguments, arguments + argument_count});
  if (argument_count < 2) {
    std::fputs(app.help().c_str(), stderr);
    return bad_usage;
  }
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::RuntimeError& status) {
    return status.get_exit_code();
  } catch (const CLI::ParseError& problem) {
    return problem.get_exit_code() == 0 ? app.exit(problem) : report_usage(app, problem);
  }
  // What was printed must have arrived: a full disk behind a redirection is a failure.
  return std::fflush(stdout) == 0 ? 0 : report("standard output: cannot be written");
}

}  // namespace

int main(int argument_count, char** arguments) {
  keep_freed_memory();
  evictsim::traces::leave_hdf5_open_at_exit();
  try {
    return run(argument_count, arguments);
  } catch (const std::bad_alloc&) {
    return report("out of memory");
  } catch (const evictsim::policies::formula::FormulaError& problem) {
    report(problem.what());
    std::fprintf(stderr, "%s\n", problem.excerpt().c_str());
    return failed;
  } catch (const std::exception& problem) {
    return report(problem.what());
  }
}
