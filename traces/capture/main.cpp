/// \file
/// evictsim-capture: records traces from models that llama.cpp runs, runs policies in them, and measures GPUs.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "traces/capture/damage/commands.h"
#include "traces/capture/probe/probe_command.h"
#include "traces/capture/run_command.h"

namespace {

int run(int argument_count, char** arguments) {
  CLI::App app(
      "Records attention traces from GGUF models with llama.cpp, runs eviction policies in them, and measures GPUs",
      "evictsim-capture");
  app.set_version_flag("--version", EVICTSIM_VERSION);
  app.require_subcommand(1);
  app.footer(
      "`evictsim-capture COMMAND --help` explains a command; docs/capture.md and docs/gpu.md lead through them.\nExit "
      "status: 0 done, 1 bad input or a failed check, 2 bad usage, 130 interrupted.");
  int status = 0;
  evictsim::traces::capture::add_run_command(app, status);
  evictsim::traces::capture::add_sensitivity_command(app, status);
  evictsim::traces::capture::add_verify_command(app, status);
  evictsim::traces::capture::add_probe_command(app);
  if (argument_count < 2) {
    std::fputs(app.help().c_str(), stderr);
    return 2;
  }
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return status;
}

}  // namespace

int main(int argument_count, char** arguments) {
  try {
    return run(argument_count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "evictsim-capture: %s\n", error.what());
    return 1;
  }
}
