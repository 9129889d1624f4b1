#pragma once
/// \file
/// Runs evictsim-capture as a user calls it, for tests of its commands.

#include <sys/wait.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <string>

namespace evictsim::tests {

struct Outcome {
  int status = -1;
  std::string output;  // both streams
};

/// A line of the shell.
inline Outcome run_line(const std::string& line) {
  Outcome outcome;
  FILE* pipe = popen((line + " 2>&1 </dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> buffer{};
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.output.append(buffer.data(), size);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.status = WEXITSTATUS(status);
  return outcome;
}

/// `environment`: assignments before the command, each with a blank behind it.
inline Outcome run_capture(const std::string& arguments, const std::string& environment = "") {
  return run_line(environment + EVICTSIM_BIN_DIR "/evictsim-capture " + arguments);
}

}  // namespace evictsim::tests
