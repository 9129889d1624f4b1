/// \file
/// evictsim-capture: records traces from models that llama.cpp runs.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>

#include "traces/capture/run_command.h"
#include "traces/error.h"

int main(int argc, char** argv) {
  CLI::App app("Records attention traces from GGUF models with llama.cpp", "evictsim-capture");
  app.set_version_flag("--version", EVICTSIM_VERSION);
  app.require_subcommand(1);
  evictsim::traces::capture::add_run_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "evictsim-capture: {}\n", error.what());
    return 1;
  }
  return 0;
}
