#pragma once
/// \file
/// "name=value" lines, the form in which options and records cross the C interface.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "traces/error.h"

namespace evictsim::traces::capture {

struct TextField {
  std::string name, value;

  // The value as something else. They throw Error(invalid_argument) naming the field and what would be right.
  [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const;
  [[nodiscard]] double real() const;
  [[nodiscard]] bool flag() const;  ///< 0 or 1
  /// Comma-separated numbers.
  [[nodiscard]] std::vector<double> reals() const;
  /// Comma-separated whole numbers and ranges, "0,4-7", ascending and not negative.
  [[nodiscard]] std::vector<int> indices() const;
  /// A number of bytes with an optional KiB, MiB or GiB.
  [[nodiscard]] std::uint64_t bytes() const;

  [[nodiscard]] Error wrong(const std::string& rule) const;
};

/// The lines of `text`, null for none; empty lines are passed over. Blanks around names and values do not count. Throws
/// Error(invalid_argument) for a line that is no field.
std::vector<TextField> parse_fields(const char* text);

}  // namespace evictsim::traces::capture
