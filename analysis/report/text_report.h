#pragma once
/// \file
/// The report as text for a terminal.

#include <cstddef>
#include <string>

#include "analysis/report/point_grid.h"
#include "analysis/report/report.h"

namespace evictsim::analysis {

/// What was asked and found in words; of every run a table of `metric`, policies down and budgets across, with a small
/// curve; the best policy per budget; of every plan its rows. Names are shown without control characters. `metric`:
/// null for every run's default. Tables are at most `width` characters wide.
std::string text_report(const ReportInputs& inputs, const ShownMetric* metric, std::size_t width);

}  // namespace evictsim::analysis
