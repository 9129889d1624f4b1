#pragma once
/// \file
/// `evictsim-capture run`.

namespace CLI {
class App;
}

namespace evictsim::traces::capture {

/// Adds the subcommand and its options to `app`; parsing it runs the capture, prints its report and sets the exit
/// status.
void add_run_command(CLI::App& app, int& status);

}  // namespace evictsim::traces::capture
