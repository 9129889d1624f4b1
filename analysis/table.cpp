#include "analysis/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <set>

#include "analysis/summary.h"
#include "analysis/text_table.h"
#include "policies/budget.h"

namespace evictsim::analysis {
namespace {

constexpr std::size_t widest_line = 120;

struct Line {
  std::string policy;
  std::vector<double> errors, half_widths;  ///< by column, NaN where not available
  [[nodiscard]] double mean_error() const {
    double sum = 0;
    std::size_t count = 0;
    for (const double error : errors) {
      if (std::isnan(error)) continue;
      sum += error;
      ++count;
    }
    return count == 0 ? std::numeric_limits<double>::infinity() : sum / static_cast<double>(count);
  }
};

std::string number(double value) {
  if (std::isnan(value)) return "-";
  if (value != 0 && std::abs(value) < 5e-5) return fmt::format("{:.0e}", value);
  return fmt::format("{:.4f}", value);
}

/// Columns of the table: budgets as the rows name them.
std::vector<std::string> budget_columns(const std::vector<RunRow>& rows) {
  const auto earlier = [](const policies::Budget& left, const policies::Budget& right) {
    if (left.in_entries() != right.in_entries()) return right.in_entries();
    return left.value() < right.value();
  };
  std::set<policies::Budget, decltype(earlier)> budgets(earlier);
  for (const RunRow& row : rows) budgets.insert(policies::Budget::parse(row.budget));
  std::vector<std::string> texts;
  for (const policies::Budget& budget : budgets) texts.push_back(budget.text());
  return texts;
}

bool same_budget(const std::string& left, const std::string& right) {
  return left == right || policies::Budget::parse(left) == policies::Budget::parse(right);
}

std::vector<Line> lines_of(const std::vector<RunRow>& rows, const std::vector<std::string>& columns) {
  std::vector<Line> lines;
  for (const PointSummary& summary : summarise(rows)) {
    auto line =
        std::find_if(lines.begin(), lines.end(), [&](const Line& known) { return known.policy == summary.policy; });
    if (line == lines.end()) {
      lines.push_back({summary.policy, std::vector<double>(columns.size(), not_available),
                       std::vector<double>(columns.size(), not_available)});
      line = std::prev(lines.end());
    }
    const auto column = std::find_if(columns.begin(), columns.end(),
                                     [&](const std::string& text) { return same_budget(text, summary.budget); });
    const auto index = static_cast<std::size_t>(column - columns.begin());
    line->errors[index] = summary[Metric::output_error].mean;
    const bool over_steps = summary.sequences == 1;
    const double high = over_steps ? summary[Metric::output_error_high].mean : summary[Metric::output_error].high;
    line->half_widths[index] = high - summary[Metric::output_error].mean;
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const Line& left, const Line& right) { return left.mean_error() < right.mean_error(); });
  return lines;
}

using CellText = std::string (*)(double error, double half_width);

std::string grid(const std::vector<Line>& lines, const std::vector<std::string>& columns, CellText text) {
  std::vector<std::vector<std::string>> table = {{"policy"}};
  table.front().insert(table.front().end(), columns.begin(), columns.end());
  for (const Line& line : lines) {
    std::vector<std::string>& cells = table.emplace_back(1, line.policy);
    for (std::size_t column = 0; column < columns.size(); ++column) {
      cells.push_back(text(line.errors[column], line.half_widths[column]));
    }
  }
  return aligned(table);
}

}  // namespace

std::string output_error_table(const std::vector<RunRow>& rows) {
  if (rows.empty()) return {};
  const std::vector<std::string> columns = budget_columns(rows);
  const std::vector<Line> lines = lines_of(rows, columns);
  std::set<std::pair<std::string, std::string>> sequences;
  for (const RunRow& row : rows) sequences.emplace(row.trace, row.sequence);
  const std::string over =
      sequences.size() == 1 ? "the steps of one sequence" : fmt::format("{} sequences", sequences.size());
  const std::string title = "Relative output error per head, mean";
  const std::string interval = fmt::format("95 % interval over {}", over);

  const std::string combined = grid(lines, columns, [](double error, double half_width) {
    return std::isnan(half_width) ? number(error) : number(error) + " ±" + number(half_width);
  });
  if (combined.find('\n') <= widest_line) return fmt::format("{} ± {}, by budget:\n\n{}", title, interval, combined);
  return fmt::format("{}, by budget:\n\n{}\nHalf-width of its {}:\n\n{}", title,
                     grid(lines, columns, [](double error, double) { return number(error); }), interval,
                     grid(lines, columns, [](double, double half_width) { return number(half_width); }));
}

}  // namespace evictsim::analysis
