#pragma once
/// \file
/// truth.csv: what policies really cost a running model, beside what a replay of the same run says. Columns:
/// docs/damage.md.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "analysis/run_row.h"

namespace evictsim::analysis {

/// One text under one policy at one budget. Numbers are NaN where there are none.
struct TruthRow {
  std::string model;
  std::string text;           ///< what is held out together, up to the last '@' (`fold_of`)
  std::int64_t rows = 0;      ///< continuation rows compared
  double kl = not_available;  ///< nats, mean over rows of KL(full || cut) of the next token's distribution
  double nll_change = not_available;
  double top1_agreement = not_available;
  double seconds = not_available;
  std::size_t line = 0;  ///< of the file it was read from, from 1; 0: none
  RunRow run;            ///< the replay of the same run; `layer_squared_errors` empty where the file has no m_ columns
};

/// The text without its last '@' and what follows: one text at several lengths is held out as one.
std::string fold_of(const std::string& text);

/// Header of truth.csv for rows with these layers (indices in the model).
std::vector<std::string> truth_column_names(std::span<const int> layers);
/// The row's cells in that order, unquoted. The row must have the same layers.
std::vector<std::string> truth_cells(const TruthRow& row);

/// Reads a file with these columns, in any order, others ignored. Every row must have as many fields as the header.
/// Throws Error naming file and line: file_not_found, permission_denied, missing_data (no rows, a required column or
/// cell), invalid_value (a number that is none, is not finite, or cannot be: KL below -1e-6, errors below 0).
std::vector<TruthRow> read_truth(const std::filesystem::path& path);

/// KL of a cut that changes nothing may come out this far below 0.
inline constexpr double most_negative_kl = 1e-6;

}  // namespace evictsim::analysis
