#pragma once
/// \file
/// `evictsim-capture probe`.

namespace CLI {
class App;
}

namespace evictsim::traces::capture {

/// Adds the subcommand and its options to `app`; parsing it measures the device and writes the description.
void add_probe_command(CLI::App& app);

}  // namespace evictsim::traces::capture
