#pragma once
/// \file
/// The text form of policies and parts: `name(argument, key=value, ...)`, nested. See docs/policies.md.

#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

struct Argument;

/// One word, quoted text or call. `window` and `window()` differ in `called` only; a number is a word.
struct Call {
  std::string name;
  bool called = false;  ///< written with parentheses
  bool quoted = false;
  std::vector<Argument> arguments;
  std::vector<Call> placement;  ///< at most one: what stands behind `@`
  std::size_t place = 0;        ///< offset of its first character in the text parsed
};

struct Argument {
  std::string key;  ///< empty: positional
  Call value;
};

/// The canonical form of a policy: `compose(scorer=...,allocator=...,schedule=...,protection=...)`.
inline constexpr const char* compose_name = "compose";
/// Whether `key` swaps a part of any policy (`schedule=every()`) and so cannot name a parameter.
bool is_composition_key(std::string_view key);

/// The option that takes policies, as errors name it.
inline constexpr const char* policy_option = "--policy";

/// Whether the last argument of a call may be followed by a comma, as Python allows.
enum class TrailingComma { refused, allowed };

/// Reads the whole of `text`. Words hold any characters but blanks, parentheses, commas, `=`, `@` and quotes; quoted
/// text ('...' or "...") holds any, with a backslash before a quote or backslash. Positional arguments come before
/// named ones; `call@placement` names where cut entries go. Throws Error(invalid_argument) naming the character where
/// the text stops making sense.
Call parse_call(std::string_view text, TrailingComma trailing_comma = TrailingComma::refused);

/// `text` as one argument's value: as it is where it reads back as a word, else quoted.
std::string quote_word(std::string_view text);

/// Splits `list` at its top-level commas; blanks around items are dropped. Throws Error(invalid_argument) for an empty
/// item and unbalanced parentheses or quotes; an unbalanced formula (`score: ...`) is left to its own parser.
std::vector<std::string> split_list(std::string_view list);

}  // namespace evictsim::policies
