#pragma once
/// \file
/// The option --plugin of commands that name policies.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace evictsim {

/// Adds --plugin, any number of times; the files go to `files`, which must live as long as the command.
void add_plugin_option(CLI::App& command, std::vector<std::string>& files);

/// Loads them in order; the first that is refused throws Error.
void load_plugins(const std::vector<std::string>& files);

}  // namespace evictsim
