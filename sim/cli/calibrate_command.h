#pragma once
/// \file
/// `evictsim calibrate`.

#include <CLI/CLI.hpp>

namespace evictsim {

/// Adds the command to `app`. It throws Error for bad input.
void add_calibrate_command(CLI::App& app);

}  // namespace evictsim
