#pragma once
/// \file
/// Typed parameters of parts: declared once, checked when a policy is parsed.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

enum class ParameterType { integer, real, boolean, choice, text };

/// One declared parameter.
struct ParameterSpec {
  std::string name;
  ParameterType type = ParameterType::integer;
  std::string default_value;
  std::string help;                       ///< one phrase
  std::optional<double> minimum = {};     ///< inclusive, for numbers
  std::optional<double> maximum = {};     ///< inclusive, for numbers
  std::vector<std::string> choices = {};  ///< for choice
  bool odd = false;                       ///< integers: odd ones only
  bool automatic = false;                 ///< numbers: may also be `auto`, see Parameters::optional_integer

  /// "integer, 1 .. 4096", "mean | max | sum", ...
  [[nodiscard]] std::string range() const;
};

/// Short forms of the above.
ParameterSpec integer_parameter(std::string name, std::string default_value, double minimum, double maximum,
                                std::string help);
ParameterSpec real_parameter(std::string name, std::string default_value, double minimum, double maximum,
                             std::string help);
ParameterSpec boolean_parameter(std::string name, std::string default_value, std::string help);
/// The same number, which may also be `auto`.
ParameterSpec or_auto(ParameterSpec spec);
/// The first choice is the default.
ParameterSpec choice_parameter(std::string name, std::vector<std::string> choices, std::string help);

/// Any text, quoted where it holds blanks, commas, parentheses, `=`, `@` or quotes; empty unless given.
ParameterSpec text_parameter(std::string name, std::string help);

/// The values of one part, every declared parameter set. Asking for an undeclared name or the wrong type is a
/// programming error (std::logic_error).
class Parameters {
 public:
  /// Checks `given` (name -> text) against `specs`, fills in defaults. `part` is named in errors. Throws Error:
  /// unknown_name with the nearest parameter, invalid_argument with value and range.
  Parameters(std::string_view part, const std::vector<ParameterSpec>& specs,
             const std::map<std::string, std::string>& given);

  [[nodiscard]] std::int64_t integer(std::string_view name) const;
  /// Of an `automatic` parameter: nothing for `auto`.
  [[nodiscard]] std::optional<std::int64_t> optional_integer(std::string_view name) const;
  [[nodiscard]] double real(std::string_view name) const;
  /// Of an `automatic` parameter: nothing for `auto`.
  [[nodiscard]] std::optional<double> optional_real(std::string_view name) const;
  [[nodiscard]] bool boolean(std::string_view name) const;
  [[nodiscard]] const std::string& choice(std::string_view name) const;
  /// Of a text parameter, without quotes.
  [[nodiscard]] const std::string& words(std::string_view name) const;
  /// Any parameter in its canonical form, which reads back as the same value.
  [[nodiscard]] std::string word(std::string_view name) const;
  /// "window=64,kernel=5", in declared order, every parameter.
  [[nodiscard]] std::string text() const;
  /// As text(), the named parameters only.
  [[nodiscard]] std::string text(const std::vector<std::string>& names) const;

 private:
  struct Value {
    std::string name;
    ParameterType type;
    std::string text;  ///< canonical
  };
  [[nodiscard]] const Value& find(std::string_view name) const;
  [[nodiscard]] const Value& find(std::string_view name, ParameterType type) const;

  std::vector<Value> values_;
};

}  // namespace evictsim::policies
