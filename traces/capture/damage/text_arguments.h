#pragma once
/// \file
/// Options that say which texts a model runs on.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "traces/capture/damage/probe_texts.h"
#include "traces/capture/llama_engine.h"

namespace evictsim::traces::capture {

/// A source of texts: its name, and its ids.
struct TextSource {
  std::string name;
  std::vector<std::int32_t> tokens;
};

/// Texts to be made out of sources.
struct TextArguments {
  std::vector<std::string> prompts, prompt_tokens, kinds;
  std::vector<int> lengths;
  int rows = 64;

  void add_to(CLI::App& command, const char* kinds_help);
  /// The kinds asked for. Throws Error(unknown_name).
  [[nodiscard]] std::vector<TextKind> parsed_kinds() const;
  /// The files as ids, or the built-in prose where none is given. Throws Error.
  [[nodiscard]] std::vector<TextSource> sources(const LlamaModel& model) const;
  /// Every kind of text at every length out of every source, called NAME-KIND@LENGTH.
  [[nodiscard]] std::vector<SequencePlan> made(const LlamaModel& model) const;
};

}  // namespace evictsim::traces::capture
