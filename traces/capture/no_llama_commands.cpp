#include <CLI/CLI.hpp>

#include "traces/capture/damage/commands.h"
#include "traces/capture/run_command.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

void add(CLI::App& app, const char* name, const char* what) {
  auto* command = app.add_subcommand(name, std::string(what) + "; not in this build");
  command->prefix_command();  // whatever is asked for, the answer is the same
  command->callback([] {
    throw Error(
        ErrorCode::unsupported,
        "this evictsim-capture was built without llama.cpp; install it (docs/capture.md says how), configure and "
        "build again");
  });
}

}  // namespace

void add_run_command(CLI::App& app, int& /*status*/) { add(app, "run", "Records a trace with llama.cpp"); }

void add_verify_command(CLI::App& app, int& /*status*/) { add(app, "verify", "Runs a model under eviction policies"); }

void add_sensitivity_command(CLI::App& app, int& /*status*/) {
  add(app, "sensitivity", "Measures how much the error of each layer matters");
}

}  // namespace evictsim::traces::capture
