#include "analysis/text_table.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "analysis/utf8.h"

namespace evictsim::analysis {
namespace {

std::size_t width_of(const std::string& cell) {
  return static_cast<std::size_t>(std::count_if(
      cell.begin(), cell.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) != 0x80U; }));
}

/// C1 controls are two bytes long; marks of direction would turn what follows them around.
bool is_control(std::string_view character) {
  if (character.size() == 1) return static_cast<unsigned char>(character.front()) < ' ' || character == "\x7f";
  if (character.size() == 2) return character.front() == '\xc2' && static_cast<unsigned char>(character[1]) < 0xa0;
  for (const std::string_view mark : {"\u200e", "\u200f", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066",
                                      "\u2067", "\u2068", "\u2069", "\u2028", "\u2029"}) {
    if (character == mark) return true;
  }
  return false;
}

}  // namespace

std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t left) {
  std::vector<std::size_t> widths;
  for (const std::vector<std::string>& cells : rows) {
    widths.resize(std::max(widths.size(), cells.size()), 0);
    for (std::size_t column = 0; column < cells.size(); ++column) {
      widths[column] = std::max(widths[column], width_of(cells[column]));
    }
  }
  std::string out;
  for (const std::vector<std::string>& cells : rows) {
    for (std::size_t column = 0; column < cells.size(); ++column) {
      const std::string padding(widths[column] - width_of(cells[column]), ' ');
      out += column == 0 ? "" : "  ";
      out += column < left ? cells[column] + padding : padding + cells[column];
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
  return out;
}

std::string sparkline(std::span<const double> values, double lowest, double highest) {
  static constexpr std::array blocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  for (const double value : values) {
    if (!std::isfinite(value)) {
      line += ' ';
      continue;
    }
    const double share = highest > lowest ? (value - lowest) / (highest - lowest) : 0;
    const double step = std::floor(std::clamp(share, 0.0, 1.0) * static_cast<double>(blocks.size()));
    line += blocks[std::min(static_cast<std::size_t>(step), blocks.size() - 1)];
  }
  return line;
}

std::string terminal_text(std::string_view text) {
  std::string shown;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character_length(text, at);
    const std::string_view character = text.substr(at, length);
    shown += length == 0 || is_control(character) ? "?" : character;
    at += std::max<std::size_t>(length, 1);
  }
  return shown;
}

}  // namespace evictsim::analysis
