#include "analysis/text_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "analysis/utf8.h"

namespace evictsim::analysis {
namespace {

std::size_t width_of(const std::string& cell) {
  return static_cast<std::size_t>(std::count_if(
      cell.begin(), cell.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) != 0x80U; }));
}

/// Of every column.
std::vector<std::size_t> widths_of(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const std::vector<std::string>& cells : rows) {
    widths.resize(std::max(widths.size(), cells.size()), 0);
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], width_of(cells[i]));
  }
  return widths;
}

/// `text` in lines of at most `most` characters, broken behind a space or comma where there is one.
std::vector<std::string> folded(const std::string& text, std::size_t most) {
  std::vector<std::string> lines;
  std::string rest = text;
  while (width_of(rest) > most) {
    std::size_t at = 0, count = 0, gap = 0;
    for (; count < most; ++count) {
      at += std::max<std::size_t>(character_length(rest, at), 1);
      if (rest[at - 1] == ' ' || rest[at - 1] == ',') gap = at;
    }
    const std::size_t cut = gap > 0 ? gap : at;
    lines.push_back(rest.substr(0, cut));
    rest.erase(0, cut);
  }
  lines.push_back(rest);
  return lines;
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
  const std::vector<std::size_t> widths = widths_of(rows);
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

std::size_t width_of(const std::vector<std::vector<std::string>>& rows) {
  const std::vector<std::size_t> widths = widths_of(rows);
  return std::accumulate(widths.begin(), widths.end(), 2 * (std::max<std::size_t>(widths.size(), 1) - 1));
}

std::string wrapped(const std::vector<std::vector<std::string>>& rows, std::size_t left, std::size_t width) {
  std::vector<std::vector<std::string>> folded_rows;
  for (const std::vector<std::string>& cells : rows) {
    const std::vector<std::string> lines = folded(cells.empty() ? std::string() : cells.front(), width / 2);
    for (const std::string& line : lines) folded_rows.push_back({line});
    std::vector<std::string>& first = folded_rows[folded_rows.size() - lines.size()];
    if (cells.size() > 1) first.insert(first.end(), cells.begin() + 1, cells.end());
  }
  const std::vector<std::size_t> widths = widths_of(folded_rows);
  std::string out;
  std::size_t begin = 1;
  do {
    std::size_t end = begin, used = widths.empty() ? 0 : widths.front();
    while (end < widths.size() && (end == begin || used + 2 + widths[end] <= width)) used += 2 + widths[end++];
    std::vector<std::vector<std::string>> part;
    for (const std::vector<std::string>& cells : folded_rows) {
      part.push_back({cells.front()});
      for (std::size_t i = begin; i < std::min(end, cells.size()); ++i) part.back().push_back(cells[i]);
    }
    out += (out.empty() ? "" : "\n") + aligned(part, begin < left ? std::min(left, end) : 1);
    begin = end;
  } while (begin < widths.size());
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
