#pragma once
/// \file
/// `evictsim plan`.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace evictsim {

/// Adds the command to `app`. `words` is the command line as typed, the program's name first; it goes into plan.h5. The
/// command throws Error for bad input and CLI::RuntimeError with the exit status when it was interrupted (130) or no
/// row of a sweep could be simulated (1).
void add_plan_command(CLI::App& app, const std::vector<std::string>& words);

}  // namespace evictsim
