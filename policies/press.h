#pragma once
/// \file
/// How a press of kvpress becomes a policy of ours. A press registers itself from the file of the part it maps to, with
/// class and argument names and defaults as in kvpress 0.5.5.

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::policies {

/// A policy call under construction.
struct PolicyText {
  std::string name;
  std::vector<std::string> arguments;  ///< "value", "key=value" or a nested call, in order
  std::string schedule;                ///< empty: the policy's own
  std::string budget;                  ///< empty: given by the user
  std::string press;                   ///< class it comes from
  bool scores = true;                  ///< its class is a ScorerPress: other presses may wrap it
  bool counts = false;                 ///< it counts what to keep by itself, which wrappers that count ignore

  /// "name(argument,...,schedule=...,budget=...)"
  [[nodiscard]] std::string text() const;
};

/// optional_* may be None: numbers then read as the empty text (integers: as 0), a press as absent. presses and numbers
/// are Python lists; numbers read as text with a blank between them.
enum class PressValue {
  integer,
  number,
  boolean,
  text,
  optional_integer,
  optional_number,
  press,
  optional_press,
  presses,
  numbers
};

struct PressArgument {
  const char* name = nullptr;
  PressValue kind = PressValue::text;
  const char* default_value = nullptr;  ///< as Python writes it; nullptr: must be given
  const char* counterpart = nullptr;    ///< our parameter, whose range holds; nullptr: none
};

/// The arguments of one press, all set, in our notation.
struct PressArguments {
  std::map<std::string, std::string, std::less<>> values;
  std::optional<PolicyText> press;                            ///< of a press that takes one
  std::map<std::string, PolicyText, std::less<>> presses_by;  ///< by argument, where a press takes several
  std::vector<PolicyText> presses;                            ///< of an argument that is a list
  std::optional<std::string> compression_ratio;               ///< where given

  [[nodiscard]] const std::string& operator[](const char* name) const;
};

/// `compression_ratio`, as most presses declare it.
inline constexpr PressArgument compression_ratio_argument = {"compression_ratio", PressValue::number, "0.0"};

struct Press {
  const char* name;  ///< class in kvpress
  const char* part;  ///< of ours, which has the counterparts
  std::vector<PressArgument> arguments;
  std::function<PolicyText(const PressArguments&)> map;
};

/// Registers a press at program start. Throws std::logic_error for a class registered twice.
struct PressRegistration {
  explicit PressRegistration(const Press& press);
};

/// A press that cuts while decoding, around `base_press`: every `compression_interval` rows, the prompt stays whole.
/// Throws Error naming `wrapper` for presses that cannot be wrapped so.
PolicyText cut_while_decoding(const PressArguments& given, const char* wrapper);
/// The same down to `target_size` entries.
PolicyText cut_to_target(const PressArguments& given, const char* wrapper);
/// Arguments that DecodingPress and its kin share, without the base press.
inline constexpr PressArgument compression_interval_argument = {"compression_interval", PressValue::integer, "512",
                                                                "steps"};
inline constexpr PressArgument target_size_argument = {"target_size", PressValue::integer, "2048"};
/// How many hidden states kvpress keeps for scoring while decoding; here every query seen is at hand.
inline constexpr PressArgument hidden_states_argument = {"hidden_states_buffer_size", PressValue::integer, "256"};

/// The press inside a wrapper that takes its scores and counts by itself. Throws Error(invalid_argument) naming
/// `wrapper` unless it is one that scores.
PolicyText scores_of_press(const PressArguments& given, const char* wrapper);

}  // namespace evictsim::policies
