#pragma once
/// \file
/// Texts for terminals: aligned tables, and small curves made of block characters.

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace evictsim::analysis {

/// One line per row; the first `left` columns to the left, the others to the right, two spaces between. Widths count
/// characters of UTF-8. Rows may be shorter than others; blanks at the ends of lines are left out.
std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t left = 1);

/// One block character per value, from low (`lowest`) to high (`highest`); a space for NaN.
std::string sparkline(std::span<const double> values, double lowest, double highest);

/// `text` as it may be shown on a terminal: control characters, escapes and what is not UTF-8 become "?".
std::string terminal_text(std::string_view text);

}  // namespace evictsim::analysis
