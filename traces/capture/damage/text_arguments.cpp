#include "traces/capture/damage/text_arguments.h"

#include <fmt/format.h>

#include <filesystem>

#include "traces/capture/command_options.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

void TextArguments::add_to(CLI::App& command, const char* kinds_help) {
  command.add_option("--prompt", prompts, "text files with commas between them")->delimiter(',');
  command.add_option("--prompt-tokens", prompt_tokens, "files of token ids instead of text")->delimiter(',');
  command.add_option("--text", kinds, kinds_help)->delimiter(',');
  command.add_option("--length", lengths, "tokens of the prompt (default 512); several with commas")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command.add_option("--rows", rows, "tokens behind the prompt that are compared")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

std::vector<TextKind> TextArguments::parsed_kinds() const {
  std::vector<TextKind> parsed;
  for (const std::string& kind : kinds) {
    const std::size_t before = parsed.size();
    for (const TextKind known : {TextKind::prose, TextKind::copy, TextKind::facts}) {
      if (kind == to_string(known)) parsed.push_back(known);
    }
    if (parsed.size() > before) continue;
    throw Error(ErrorCode::unknown_name, "there are prose, copy and facts", {.parameter = "text", .value = kind});
  }
  return parsed;
}

std::vector<TextSource> TextArguments::sources(const LlamaModel& model) const {
  std::vector<TextSource> found;
  for (const std::string& file : prompts) {
    found.push_back({std::filesystem::path(file).stem().string(), model.tokenize(read_text(file), true, false)});
  }
  for (const std::string& file : prompt_tokens) {
    found.push_back({std::filesystem::path(file).stem().string(), read_tokens(file)});
  }
  if (found.empty()) found.push_back({"built-in", model.tokenize(built_in_prose(), true, false)});
  return found;
}

std::vector<SequencePlan> TextArguments::made(const LlamaModel& model) const {
  std::vector<SequencePlan> texts;
  const auto tokenize = [&](const std::string& text) { return model.tokenize(text, false, false); };
  const std::vector<TextKind> wanted = parsed_kinds();
  for (const TextSource& source : sources(model)) {
    for (const TextKind kind : wanted) {
      for (const int length : lengths.empty() ? std::vector<int>{512} : lengths) {
        SequencePlan text = make_text(kind, source.tokens, {.length = length, .rows = rows}, tokenize);
        text.id = fmt::format("{}-{}@{}", source.name, to_string(kind), length);
        text.ignore_end = true;
        texts.push_back(std::move(text));
      }
    }
  }
  return texts;
}

}  // namespace evictsim::traces::capture
