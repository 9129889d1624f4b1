#pragma once
/// \file
/// Texts on which a model is watched: prose, prose of which a part is repeated, and facts that are planted in prose and
/// asked for again (docs/capture.md). Everything behind the prompt is given, so runs are compared row by row.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/capture_plan.h"

namespace evictsim::traces::capture {

enum class TextKind {
  prose,  ///< the source, and how it goes on
  copy,   ///< the source, then a part of it again: needs no tokenizer
  facts,  ///< the source with facts in it, then the facts again
};
/// "prose", "copy", "facts".
const char* to_string(TextKind kind) noexcept;

struct TextShape {
  int length = 512;  ///< tokens of the prompt
  int rows = 64;     ///< tokens behind it
};

/// The ids of a text, without special tokens.
using Tokenize = std::function<std::vector<std::int32_t>(const std::string& text)>;

/// Makes a prompt of exactly `shape.length` tokens and a continuation of `shape.rows` out of `source`, the ids of a
/// text. The same source gives the same text. Throws Error(invalid_argument) naming how many tokens are needed where
/// the source, or the prompt, is too short.
SequencePlan make_text(TextKind kind, std::span<const std::int32_t> source, const TextShape& shape,
                       const Tokenize& tokenize);

/// About seven hundred tokens of plain prose, for want of a text.
const std::string& built_in_prose();

}  // namespace evictsim::traces::capture
