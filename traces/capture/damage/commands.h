#pragma once
/// \file
/// `evictsim-capture verify` and `evictsim-capture sensitivity`.

namespace CLI {
class App;
}

namespace evictsim::traces::capture {

/// Add the subcommands and their options to `app`; parsing one runs it, prints what came of it and sets the exit
/// status.
void add_verify_command(CLI::App& app, int& status);
void add_sensitivity_command(CLI::App& app, int& status);

}  // namespace evictsim::traces::capture
