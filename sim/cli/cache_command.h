#pragma once
/// \file
/// `evictsim cache`.

#include <CLI/CLI.hpp>

namespace evictsim {

/// Adds the command to `app`. It throws Error for bad input.
void add_cache_command(CLI::App& app);

}  // namespace evictsim
