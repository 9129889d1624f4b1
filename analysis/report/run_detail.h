#pragma once
/// \file
/// What a run's `/detail` holds, as means over its sequences: by layer and head, by decode step, by position of the
/// prompt, and by token. Arrays are [policies, budgets, ...] of the grid, row-major, NaN where there is nothing.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/report/point_grid.h"
#include "analysis/run_file_reader.h"

namespace evictsim::analysis {

/// One metric over the grid and one or more axes.
struct DetailGrid {
  std::string name;
  std::vector<double> values;
};

/// Mean over the sequences whose layers and heads are those of the first one.
struct HeadMaps {
  std::vector<std::int32_t> layers;  ///< indices in the model
  std::size_t heads = 0;             ///< query heads
  std::size_t sequences = 0;         ///< behind the values
  std::vector<DetailGrid> metrics;   ///< [policies, budgets, layers, heads]
};
/// nullopt without `--per layer,head`.
std::optional<HeadMaps> head_maps(const PointGrid& grid, const RunReader& reader);

/// Decode steps are counted from the first token behind the prompt.
struct StepCurves {
  static constexpr std::size_t most_bins = 512;
  std::vector<std::int32_t> steps;  ///< the first step of every bin
  std::vector<DetailGrid> metrics;  ///< [policies, budgets, bins]
  std::vector<DetailGrid> stored;   ///< stored_hbm_bytes, stored_host_bytes, stored_disk_bytes: the same
};
/// nullopt without `--per step`.
std::optional<StepCurves> step_curves(const PointGrid& grid, const RunReader& reader);

struct PositionMeans {
  static constexpr std::size_t most_bins = 32;
  std::vector<std::int32_t> edges;  ///< bins + 1 token positions of the longest prompt
  std::vector<double> evicted;  ///< [policies, budgets, bins] share of (layer, cache head, entry) cut after the prompt
  std::vector<double> lost;     ///< full attention on entries there from rows that do not attend them; empty: none
};
/// nullopt without `--per entry`.
std::optional<PositionMeans> position_means(const PointGrid& grid, const RunReader& reader);

/// The prompt of one sequence. Policies and budgets are places in the grid: fewer than it has where the arrays would
/// grow past their limits.
struct TokenMaps {
  std::size_t sequence = 0;  ///< place in PointGrid::sequences()
  std::size_t length = 0;    ///< tokens of the prompt
  std::vector<std::size_t> policies, budgets;
  std::vector<double> kept, lost, premature;  ///< [policies, budgets, length]; empty: not there
  // Cache heads one by one; `heads` 0: not there.
  std::vector<std::size_t> head_policies, head_budgets;
  std::vector<std::int32_t> layers;
  std::size_t heads = 0;
  std::vector<std::uint8_t> bits;  ///< [head_policies, head_budgets, layers, heads, (length + 7) / 8]
};
struct TokenLimits {
  std::size_t elements = std::size_t{4} << 20U;    ///< of one array, over all sequences
  std::size_t head_bytes = std::size_t{6} << 20U;  ///< of bits, over all sequences
};
/// One per sequence with `--per entry`, as many as the limits allow; `left_out` counts the others.
std::vector<TokenMaps> token_maps(const PointGrid& grid, const RunReader& reader, const TokenLimits& limits,
                                  std::size_t& left_out);

}  // namespace evictsim::analysis
