#pragma once
/// \file
/// Measured serving points with a fixed number of requests in flight, as in AIConfigurator's accuracy sample: one row
/// per point, columns by name. Which columns, and how layouts are read: docs/accuracy.md.

#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "models/engine.h"
#include "models/step_time.h"
#include "sim/serving/steady_state.h"

namespace evictsim::sim {

/// Of a disaggregated deployment, what computes prompts.
struct PrefillSide {
  models::StepShape shape;
  PrefillReplicas replicas;
};

struct MeasuredPoint {
  std::string id;
  std::string status;       ///< "ok", or why nothing can be said, such as "unsupported model X"; then only id holds
  models::Engine engine;    ///< with the point's version
  std::string gpu;          ///< models::Gpu::name
  std::string model;        ///< models::Llm::name
  std::string precision;    ///< models::precision_name
  models::StepShape shape;  ///< of a replica; disaggregated: of one that decodes
  ClosedLoopLoad loop;      ///< of that replica
  std::optional<PrefillSide> prefill;                                          ///< if disaggregated
  double first_token_seconds = std::numeric_limits<double>::quiet_NaN();       ///< measured; NaN: the row lacks it
  double per_output_token_seconds = std::numeric_limits<double>::quiet_NaN();  ///< measured, or NaN
};

/// Throws Error (file_not_found, permission_denied, missing_data: a column; invalid_value: a row of another length).
/// What a single row asks for in vain goes to its status.
std::vector<MeasuredPoint> read_measured_points(const std::filesystem::path& file);

/// By the closed forms of sim/serving/steady_state.h, not by simulation.
ClosedLoopTimes times_of(const MeasuredPoint& point, const models::EngineConstants& constants);
/// With the constants of the point's engine.
ClosedLoopTimes predict(const MeasuredPoint& point);

struct PointPrediction {
  std::string id;
  double ttft_ms = std::numeric_limits<double>::quiet_NaN();  ///< NaN unless ok
  double tpot_ms = std::numeric_limits<double>::quiet_NaN();
  std::string status;
};
/// Of every row, in order. Throws as read_measured_points().
std::vector<PointPrediction> predict_points(const std::filesystem::path& file);

}  // namespace evictsim::sim
