#pragma once
/// \file
/// The text of a formula scorer as a tree: `mean(attention, window=32) * norm(v) ^ 0.5`. Grammar: docs/formulas.md.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "traces/error.h"

namespace evictsim::policies::formula {

/// Marks a policy as a formula: `score: -norm(k)`.
inline constexpr std::string_view prefix = "score:";

/// `name=value` inside a call; the value is a word or number, not a formula.
struct Option {
  std::string name;
  std::string value;
  std::size_t place = 0;  ///< offset of its first character
};

struct Expression {
  enum class Kind { number, name, call, operation };
  Kind kind = Kind::number;
  std::size_t place = 0;  ///< offset of its first character; of an operation: of the operator
  std::string word;       ///< name, or one of "+ - * / ^"
  double number = 0;
  /// Of a call; of an operation its operands: two, or one for the sign "-".
  std::vector<Expression> arguments;
  std::vector<Option> options;
};

/// An error at a place of a formula.
class FormulaError : public Error {
 public:
  FormulaError(ErrorCode code, std::string_view text, std::size_t place, const std::string& what);
  /// Two lines without a line end: the formula, and a caret under the place. For programs to show below `what()`.
  [[nodiscard]] const std::string& excerpt() const noexcept { return excerpt_; }

 private:
  std::string excerpt_;
};

/// Reads the whole of `text`. Throws FormulaError(invalid_argument) at the place where it stops making sense.
Expression parse(std::string_view text);

/// Throws FormulaError: `what` is wrong at `place` of `text`.
[[noreturn]] void fail(std::string_view text, std::size_t place, const std::string& what,
                       ErrorCode code = ErrorCode::invalid_argument);

}  // namespace evictsim::policies::formula
