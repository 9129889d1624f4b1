#pragma once
/// \file
/// `evictsim trace info|verify|slice|merge|synth`.

#include <CLI/CLI.hpp>

namespace evictsim {

/// Adds the command to `app`. It throws Error for bad input, and CLI::RuntimeError(1) when `verify` has printed faults.
void add_trace_command(CLI::App& app);

}  // namespace evictsim
