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

/// Characters of its longest line.
std::size_t width_of(const std::vector<std::vector<std::string>>& rows);

/// The same within `width` characters a line: columns that do not fit follow in further tables below, which repeat the
/// first column; texts of the first column beyond half the width go on in the next line. Single columns wider than what
/// is left stay whole.
std::string wrapped(const std::vector<std::vector<std::string>>& rows, std::size_t left, std::size_t width);

/// One block character per value, from low (`lowest`) to high (`highest`); a space for NaN.
std::string sparkline(std::span<const double> values, double lowest, double highest);

/// `text` as it may be shown on a terminal: control characters, escapes and what is not UTF-8 become "?".
std::string terminal_text(std::string_view text);

}  // namespace evictsim::analysis
