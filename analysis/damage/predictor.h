#pragma once
/// \file
/// Fills the predicted damage of a replay's rows, from a calibration or a trace's sensitivity (docs/damage.md).

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/damage/calibration.h"
#include "analysis/damage/conformal.h"
#include "analysis/damage/damage_law.h"
#include "analysis/run_row.h"
#include "traces/header.h"

namespace evictsim::analysis {

/// Along how many directions a replay sums the errors of layers as vectors (sim::ReplayOptions): the relative standard
/// deviation of a norm is at most sqrt(1 / (2 k)), 12.5 %, and that of a mean over rows less.
inline constexpr int summed_error_directions = 32;

/// Predicted KL above this is no longer local: the law overshoots, and KL itself levels off.
inline constexpr double saturated_kl = 1;
/// Share of full attention on the first four entries, mean over query heads, rows and layers, whose loss counts as the
/// loss of the sinks.
inline constexpr double largest_lost_sink_mass = 0.1;

/// The weights of a trace's /model/sensitivity: linear, a = 0, g = 1. Empty without it.
std::optional<DamageLaw> sensitivity_law(const traces::Header& header);

class DamagePredictor {
 public:
  /// One header per trace. `calibration` counts for every trace of its model, in place of the trace's sensitivity, and
  /// alone gives bands; traces of other models keep their own sensitivity. Throws Error(invalid_argument) for a
  /// coverage outside 0.5 to 0.99.
  DamagePredictor(std::vector<traces::Header> headers, std::optional<DamageCalibration> calibration, double coverage);

  /// Fills predicted_kl, its band and prediction_status of a row of trace `trace`. A row without prediction says why in
  /// its status; failed rows are left alone.
  void predict(std::size_t trace, RunRow& row) const;

  /// Whether the calibration, where there is one, counts for the trace, and otherwise whether its rows can have a
  /// prediction at all: empty, or why not.
  [[nodiscard]] const std::string& problem(std::size_t trace) const { return sources_[trace].problem; }
  /// Whether rows of the trace can have a prediction.
  [[nodiscard]] bool predicts(std::size_t trace) const { return sources_[trace].law.has_value(); }

 private:
  struct Source {
    std::string problem;  ///< why the law is not the calibration's, or there is none
    std::optional<DamageLaw> law;
    const DamageCalibration* calibration = nullptr;  ///< where the law is its own
    int model_layers = 0;
  };

  std::shared_ptr<const DamageCalibration> calibration_;
  std::vector<Source> sources_;  ///< by trace
  std::optional<ConformalBand> band_;
};

}  // namespace evictsim::analysis
