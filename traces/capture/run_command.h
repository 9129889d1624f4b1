#pragma once
/// \file
/// `evictsim-capture run`.

namespace CLI {
class App;
}

namespace evictsim::traces::capture {

/// Adds the subcommand and its options to `app`; parsing it runs the capture and prints its report.
void add_run_command(CLI::App& app);

}  // namespace evictsim::traces::capture
