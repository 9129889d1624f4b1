#pragma once
/// \file
/// What `evictsim calibrate` learns from closed-loop points, how well it holds on texts that were left out, and the
/// file that keeps it. Method and format: docs/damage.md.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/damage/damage_law.h"
#include "analysis/damage/law_fit.h"
#include "analysis/damage/rank_measures.h"
#include "analysis/damage/truth_file.h"

namespace evictsim::analysis {

/// The predictor without weights, brought to the scale of KL: KL = exp(level) index^exponent.
struct IndexLaw {
  std::string kind;  ///< RunRow::damage_index_kind
  double level = 0;
  double exponent = 1;
  /// Factor between this and the weighted law that 95 % of the held-out points stay below.
  double usual_factor = 1;

  [[nodiscard]] double kl(double index) const;
};

/// Points up to this factor beyond the ones calibrated with are like them.
inline constexpr double calibrated_margin = 1.2;

/// Between what the points lie that a calibration was made of.
struct CalibratedRange {
  struct Bounds {
    double least = 0, most = 0;
    /// Up to calibrated_margin.
    [[nodiscard]] bool holds(double value) const;
  };
  Bounds prompt_length;  ///< tokens
  Bounds kept_fraction;  ///< RunRow's: share of the prompt's entries
};

/// Contents of model.cal.json.
struct DamageCalibration {
  std::string model;  ///< as traces name it
  DamageLaw law;
  bool from_sensitivity = false;         ///< the weights are those of a trace, not fitted
  std::optional<IndexLaw> index;         ///< where every point has the same kind of index
  std::optional<CalibratedRange> range;  ///< where every point says it
  std::vector<double> residuals;         ///< log(measured / predicted) of held-out points, ascending
  std::vector<std::string> texts;

  [[nodiscard]] bool has_band(double coverage) const;
};

struct CalibrationOptions {
  FitOptions fit;
  /// Weights by layer of the model to take instead of fitting; nothing else is fitted then.
  std::optional<DamageLaw> sensitivity;
  bool use_sensitivity = false;  ///< calibrate `sensitivity`; otherwise it is only compared with
  std::size_t folds = 0;         ///< groups of texts held out in turn; 0: every text alone
  double coverage = 0.9;
  double smallest_kl = 1e-6;  ///< points below are rounding, and left out
};

/// A predictor and how well it does.
struct PredictorMeasures {
  std::string name;
  RankMeasures measures;
  bool has_scale = false;  ///< predicts KL itself, so that factors mean something
};

struct CalibrationReport {
  DamageCalibration calibration;
  RankMeasures held_out;                      ///< of the calibration's law
  std::vector<PredictorMeasures> predictors;  ///< all, the calibration's first
  std::size_t points = 0, texts = 0, folds = 0;
  std::size_t too_small = 0, failed = 0;  ///< rows left out
  double coverage = 0.9;
  bool has_band = false;
  double band_low = 0, band_high = 0;  ///< factors
  double held_coverage = 0;            ///< share of points inside the band of the other texts' residuals
};

/// All rows of one model. Throws Error: invalid_value (several models, layers that differ, fewer than 0 of anything);
/// missing_data (no errors of layers, fewer than two texts, too few points).
CalibrationReport calibrate(std::span<const TruthRow> rows, const CalibrationOptions& options);

/// The fewest points that weights are fitted to, per layer that has one.
inline constexpr std::size_t fewest_points_per_layer = 1;

/// Table of the report for a terminal and for Markdown.
std::string text_of(const CalibrationReport& report);

/// Throws Error (io_failure).
void write_calibration(const std::filesystem::path& path, const DamageCalibration& calibration);
/// Throws Error naming file and field (file_not_found, permission_denied, invalid_value, missing_data, wrong_type,
/// unknown_name, unsupported_version).
DamageCalibration read_calibration(const std::filesystem::path& path);

}  // namespace evictsim::analysis
