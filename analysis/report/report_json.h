#pragma once
/// \file
/// The pieces of a report's data, as the page reads them. Internal to analysis/report. Layout: docs/report.md, "Data".

#include <cstddef>
#include <string>
#include <vector>

#include "analysis/plan_file.h"
#include "analysis/report/encoding.h"
#include "analysis/report/missing.h"
#include "analysis/report/point_grid.h"
#include "analysis/run_file_reader.h"
#include "traces/reader.h"

namespace evictsim::analysis {

/// A trace that belongs to a run, or why there is none.
struct FoundTrace {
  const traces::Reader* reader = nullptr;
  std::string why_not;
};

/// `traces`: one per input of the run. What is not there is added to `missing`, as of run `place`.
Json run_json(const PointGrid& grid, const RunReader& reader, const std::vector<FoundTrace>& traces, std::size_t place,
              MissingParts& missing);
Json plan_json(const PlanContents& plan, std::size_t place, MissingParts& missing);
/// `what`: the name of the inputs' third column, a model or a role.
Json provenance_json(const std::string& file, const char* kind, const RecordedProvenance& provenance);

/// The file's name without folders, for titles.
std::string short_name(const std::string& path);

}  // namespace evictsim::analysis
