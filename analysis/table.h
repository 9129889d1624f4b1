#pragma once
/// \file
/// The aligned table that a replay prints.

#include <string>
#include <vector>

#include "analysis/run_row.h"

namespace evictsim::analysis {

/// What every reader of a replay's numbers must know.
inline constexpr const char* open_loop_caveat =
    "Queries come from the full-cache run: the cut after the prompt is exact, later damage is first order.";

/// Policies down, budgets across, output error in the cells with the half-width of its 95 % interval: over sequences,
/// or over the steps of a single one. Shares come before entries, both ascending; the policy with the smallest mean
/// error first. "-": not available. Empty without rows.
std::string output_error_table(const std::vector<RunRow>& rows);

}  // namespace evictsim::analysis
