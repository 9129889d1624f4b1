#include <CLI/CLI.hpp>

#include "traces/capture/run_command.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

void add_run_command(CLI::App& app, int& /*status*/) {
  auto* command = app.add_subcommand("run", "Records a trace with llama.cpp; not in this build");
  command->prefix_command();  // whatever is asked for, the answer is the same
  command->callback([] {
    throw Error(
        ErrorCode::unsupported,
        "this evictsim-capture was built without llama.cpp; install it (docs/capture.md says how), configure and "
        "build again");
  });
}

}  // namespace evictsim::traces::capture
