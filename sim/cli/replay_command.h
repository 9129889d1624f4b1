#pragma once
/// \file
/// `evictsim replay`.

#include <CLI/CLI.hpp>

namespace evictsim {

/// Adds the command to `app`. It throws Error for bad input and CLI::RuntimeError with the exit status when the run was
/// interrupted (130) or a policy failed (1).
void add_replay_command(CLI::App& app);

}  // namespace evictsim
