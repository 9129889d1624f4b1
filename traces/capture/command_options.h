#pragma once
/// \file
/// Options that several commands of evictsim-capture share, and the files that they name.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "traces/capture/llama_engine.h"

namespace evictsim::traces::capture {

/// The text of a file; "-": standard input. Throws Error.
std::string read_text(const std::string& path);
/// Token ids with blanks between them. Throws Error.
std::vector<std::int32_t> read_tokens(const std::string& path);

/// Takes one of the names of `choices`, and says which there are.
template <typename Choice>
CLI::Validator one_of(const std::map<std::string, Choice>& choices) {
  return CLI::Validator(
      [choices](std::string& word) -> std::string {
        const auto chosen = choices.find(word);
        if (chosen == choices.end()) {
          std::string names;
          for (const auto& [name, ignored] : choices) names += (names.empty() ? "" : ", ") + name;
          return fmt::format("{}: there is no such choice; there are {}", word, names);
        }
        word = std::to_string(static_cast<int>(chosen->second));
        return {};
      },
      "");
}

/// Settings of the engine as typed.
struct EngineArguments {
  EngineSettings settings;  ///< where options are not given
  std::string gpu_layers = "0";
  int main_gpu = 0;

  /// For measurements of small changes: a float32 cache and plain attention unless told otherwise.
  static EngineArguments exact();

  void add_to(CLI::App& command);
  /// After parsing. Throws Error(invalid_argument).
  [[nodiscard]] EngineSettings complete(const CLI::App& command) const;
};

}  // namespace evictsim::traces::capture
