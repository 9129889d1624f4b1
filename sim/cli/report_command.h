#pragma once
/// \file
/// `evictsim report`.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace evictsim {

/// Adds the command to `app`. `words` is the command line as typed, the program's name first; it goes into the report.
/// The command throws Error for bad input.
void add_report_command(CLI::App& app, const std::vector<std::string>& words);

}  // namespace evictsim
