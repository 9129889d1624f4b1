/// \file
/// evictsim-capture: records traces from models that llama.cpp runs, and measures GPUs.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "traces/capture/probe/probe_command.h"
#include "traces/capture/run_command.h"

namespace {

int run(int argument_count, char** arguments) {
  CLI::App app("Records attention traces from GGUF models with llama.cpp, and measures GPUs", "evictsim-capture");
  app.set_version_flag("--version", EVICTSIM_VERSION);
  app.require_subcommand(1);
  int status = 0;
  evictsim::traces::capture::add_run_command(app, status);
  evictsim::traces::capture::add_probe_command(app);
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
