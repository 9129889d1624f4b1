#pragma once
/// \file
/// The report as text for a terminal.

#include <string>

#include "analysis/report/point_grid.h"
#include "analysis/report/report.h"

namespace evictsim::analysis {

/// What was asked and found in words; of every run a table of `metric`, policies down and budgets across, with a small
/// curve; the best policy per budget; of every plan its rows. Names are shown without control characters.
std::string text_report(const ReportInputs& inputs, const ShownMetric& metric);

}  // namespace evictsim::analysis
