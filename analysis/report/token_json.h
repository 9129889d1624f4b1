#pragma once
/// \file
/// The tokens of a run's prompts, as the page reads them. Internal to analysis/report.

#include <functional>
#include <string>
#include <vector>

#include "analysis/report/report_json.h"
#include "analysis/report/run_detail.h"

namespace evictsim::analysis {

/// `miss(part, why)` is told what is not there. Null when that is all.
Json tokens_json(const PointGrid& grid, const RunReader& reader, const std::vector<FoundTrace>& traces,
                 const std::function<void(const char* part, const std::string& why)>& miss);

}  // namespace evictsim::analysis
