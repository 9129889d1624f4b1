#include "analysis/damage/truth_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "analysis/csv.h"
#include "traces/error.h"
#include "traces/text_lines.h"

namespace evictsim::analysis {
namespace {

/// What stands before the columns of run.csv.
constexpr std::array<const char*, 12> own_columns = {"model",      "text",           "trace",   "sequence",
                                                     "policy",     "budget",         "rows",    "kl",
                                                     "nll_change", "top1_agreement", "seconds", "prompt_length"};
constexpr std::array<const char*, 8> required_columns = {"model",  "text",   "trace", "sequence",
                                                         "policy", "budget", "rows",  "kl"};

bool is_own(const std::string& name) {
  return std::find(own_columns.begin(), own_columns.end(), name) != own_columns.end();
}

std::string layer_column(int layer) { return fmt::format("m_{:03d}", layer); }

/// Which layer a column is of.
std::optional<int> layer_of(std::string_view column) {
  if (!column.starts_with("m_") || column.size() < 5) return std::nullopt;
  return traces::number_in<int>(column.substr(2));
}

/// A field with doubled quotes made single again.
std::string unquoted(std::string_view field) {
  std::string text(field);
  for (std::size_t at = text.find("\"\""); at != std::string::npos; at = text.find("\"\"", at + 1)) text.erase(at, 1);
  return text;
}

class TruthReader {
 public:
  explicit TruthReader(const std::filesystem::path& path) : lines_(path) {
    if (!lines_.next(line_))
      throw lines_.file_error(ErrorCode::missing_data, "the file is empty; its first line names the columns");
    split();
    for (std::size_t place = 0; place < fields_.size(); ++place) {
      const std::string name(fields_[place]);
      if (!places_.emplace(name, place).second) {
        throw lines_.error(ErrorCode::invalid_value, "names a column twice", "column", name);
      }
      if (const auto layer = layer_of(name)) layers_[*layer] = place;
    }
    width_ = fields_.size();
    for (const char* column : required_columns) {
      if (!places_.contains(column)) {
        throw lines_.file_error(ErrorCode::missing_data, fmt::format("has no column {}; needed are {}", column,
                                                                     fmt::join(required_columns, ", ")));
      }
    }
  }

  std::vector<TruthRow> rows() {
    std::vector<TruthRow> rows;
    while (lines_.next(line_)) {
      split();
      if (fields_.size() != width_) {
        throw lines_.error(ErrorCode::invalid_value,
                           fmt::format("has {} fields; the header names {}", fields_.size(), width_));
      }
      rows.push_back(row());
    }
    if (rows.empty()) throw lines_.file_error(ErrorCode::missing_data, "has no rows");
    return rows;
  }

 private:
  void split() { traces::split_csv(line_, fields_); }

  TruthRow row() {
    TruthRow row;
    row.line = lines_.number();
    row.model = required_text("model");
    row.text = required_text("text");
    row.run.trace = text("trace");
    row.run.sequence = text("sequence");
    row.run.policy = required_text("policy");
    row.run.budget = required_text("budget");
    if (places_.contains("status") && !text("status").empty()) row.run.status = text("status");
    row.rows = count("rows");
    row.run.decode_rows = row.rows;
    row.run.prompt_length = count("prompt_length");
    row.run.layers = std::ssize(layers_);
    row.run.damage_index_kind = text("damage_index_kind");
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      row.run.metrics[metric] = number(to_string(static_cast<Metric>(metric)));
    }
    row.nll_change = number("nll_change");
    row.top1_agreement = number("top1_agreement");
    row.seconds = number("seconds");
    row.kl = number("kl");
    if (!row.run.ok()) return row;
    if (std::isnan(row.kl)) throw missing("kl");
    if (row.kl < -most_negative_kl) throw bad("kl", "is a divergence, which is not negative");
    for (const auto& [layer, place] : layers_) {
      const std::string name(layer_column(layer));
      const double error = value(name, fields_[place]);
      if (std::isnan(error)) throw missing(name);
      if (error < 0) throw bad(name, "is a mean of squares, which is not negative");
      row.run.layer_indices.push_back(layer);
      row.run.layer_squared_errors.push_back(error);
    }
    return row;
  }

  [[nodiscard]] std::string_view field(const std::string& column) const {
    const auto found = places_.find(column);
    return found == places_.end() ? std::string_view{} : fields_[found->second];
  }
  [[nodiscard]] std::string text(const std::string& column) const { return unquoted(field(column)); }
  [[nodiscard]] Error missing(const std::string& column) const {
    return lines_.error(ErrorCode::missing_data, "this cell is empty", column);
  }
  [[nodiscard]] Error bad(const std::string& column, const std::string& why) const {
    return lines_.error(ErrorCode::invalid_value, why, column, field(column));
  }
  [[nodiscard]] std::string required_text(const std::string& column) const {
    std::string found = text(column);
    if (found.empty()) throw missing(column);
    return found;
  }
  [[nodiscard]] double value(const std::string& column, std::string_view cell) const {
    if (cell.empty()) return not_available;
    const auto number = traces::number_in<double>(cell);
    if (!number || !std::isfinite(*number)) {
      throw lines_.error(ErrorCode::invalid_value, "is no finite number", column, cell);
    }
    return *number;
  }
  [[nodiscard]] double number(const std::string& column) const { return value(column, field(column)); }
  [[nodiscard]] std::int64_t count(const std::string& column) const {
    const std::string_view cell = field(column);
    if (cell.empty()) return 0;
    const auto number = traces::number_in<std::int64_t>(cell);
    if (!number || *number < 0) throw bad(column, "is no whole number from 0 on");
    return *number;
  }

  traces::TextLines lines_;
  std::string line_;
  std::vector<std::string_view> fields_;
  std::map<std::string, std::size_t> places_;
  std::map<int, std::size_t> layers_;  ///< columns of m_l
  std::size_t width_ = 0;
};

}  // namespace

std::string fold_of(const std::string& text) { return text.substr(0, text.rfind('@')); }

std::vector<std::string> truth_column_names(std::span<const int> layers) {
  std::vector<std::string> names(own_columns.begin(), own_columns.end());
  for (const std::string& name : column_names()) {
    if (!is_own(name)) names.push_back(name);
  }
  for (const int layer : layers) names.push_back(layer_column(layer));
  return names;
}

std::vector<std::string> truth_cells(const TruthRow& row) {
  std::vector<std::string> texts = {row.model,
                                    row.text,
                                    row.run.trace,
                                    row.run.sequence,
                                    row.run.policy,
                                    row.run.budget,
                                    std::to_string(row.rows),
                                    decimal(row.kl),
                                    decimal(row.nll_change),
                                    decimal(row.top1_agreement),
                                    decimal(row.seconds),
                                    std::to_string(row.run.prompt_length)};
  const std::vector<std::string> names = column_names();
  const std::vector<std::string> values = cells(row.run);
  for (std::size_t column = 0; column < names.size(); ++column) {
    if (!is_own(names[column])) texts.push_back(values[column]);
  }
  // Without W_O, and in rows that failed, there are layers but no errors.
  for (std::size_t layer = 0; layer < row.run.layer_indices.size(); ++layer) {
    const bool known = layer < row.run.layer_squared_errors.size();
    texts.push_back(known ? decimal(row.run.layer_squared_errors[layer]) : std::string());
  }
  return texts;
}

std::vector<TruthRow> read_truth(const std::filesystem::path& path) { return TruthReader(path).rows(); }

}  // namespace evictsim::analysis
