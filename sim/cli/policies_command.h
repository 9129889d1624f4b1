#pragma once
/// \file
/// `evictsim policies`.

#include <CLI/CLI.hpp>

namespace evictsim {

/// Adds the command to `app`: lists the policies, their parts or the grammar, or explains one name. It throws Error for
/// an unknown name.
void add_policies_command(CLI::App& app);

}  // namespace evictsim
