#pragma once
/// \file
/// `evictsim replay`.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace evictsim {

/// Adds the command to `app`. `words` is the command line as typed, the program's name first; it goes into run.h5. The
/// command throws Error for bad input and CLI::RuntimeError with the exit status when the run was
/// interrupted (130) or a policy failed (1).
void add_replay_command(CLI::App& app, const std::vector<std::string>& words);

}  // namespace evictsim
