#include "analysis/damage/predictor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace evictsim::analysis {

namespace {

/// Why the calibration does not count for a trace; empty: it does.
std::string misfit(const DamageCalibration& calibration, const traces::Header& header) {
  if (calibration.model != header.model) {
    return fmt::format("the calibration is of {}, the trace of {}", calibration.model, header.model);
  }
  if (calibration.law.layers.back() >= header.num_layers) {
    return fmt::format("the calibration weighs layer {}, the model has {}", calibration.law.layers.back(),
                       header.num_layers);
  }
  return {};
}

bool predictors_disagree(const DamageCalibration& calibration, const RunRow& row) {
  if (!calibration.index || calibration.index->kind != row.damage_index_kind) return false;
  const double other = calibration.index->kl(row[Metric::damage_index]);
  return other > 0 && std::abs(std::log(row[Metric::predicted_kl] / other)) > std::log(calibration.index->usual_factor);
}

bool lies_outside(const DamageCalibration& calibration, const RunRow& row) {
  if (!calibration.range) return false;
  return !calibration.range->prompt_length.holds(static_cast<double>(row.prompt_length)) ||
         !calibration.range->kept_fraction.holds(row[Metric::kept_fraction]);
}

}  // namespace

std::optional<DamageLaw> sensitivity_law(const traces::Header& header) {
  if (header.sensitivity.empty()) return std::nullopt;
  DamageLaw law;
  law.layers = header.layers;
  // Measured close to 0, a sensitivity may come out below it.
  for (const double weight : header.sensitivity) law.weights.push_back(std::max(weight, 0.0));
  return law;
}

DamagePredictor::DamagePredictor(std::vector<traces::Header> headers, std::optional<DamageCalibration> calibration,
                                 double coverage) {
  if (calibration) calibration_ = std::make_shared<const DamageCalibration>(*std::move(calibration));
  for (const traces::Header& header : headers) {
    Source source{.problem = {}, .law = {}, .calibration = calibration_.get(), .model_layers = header.num_layers};
    if (calibration_) source.problem = misfit(*calibration_, header);
    if (calibration_ && source.problem.empty()) {
      source.law = calibration_->law;
    } else {
      source.calibration = nullptr;
      source.law = sensitivity_law(header);
      if (!calibration_ && !source.law) source.problem = "neither /model/sensitivity nor --calibration";
    }
    sources_.push_back(std::move(source));
  }
  if (calibration_ && calibration_->has_band(coverage)) band_ = conformal_band(calibration_->residuals, coverage);
}

void DamagePredictor::predict(std::size_t trace, RunRow& row) const {
  if (!row.ok()) return;
  const Source& source = sources_[trace];
  if (!source.law) {
    row.prediction_status = "none: " + source.problem;
    return;
  }
  if (row.layer_squared_errors.empty()) {
    row.prediction_status = row.decode_rows == 0 ? "none: no decode rows" : "none: a layer has no w_o";
    return;
  }
  const DamageLaw& law = *source.law;
  std::vector<double> errors(law.layers.size(), 0.0);
  std::size_t known = 0;
  for (std::size_t layer = 0; layer < row.layer_indices.size(); ++layer) {
    const double error = row.layer_squared_errors[layer];
    const std::size_t place = law.place_of(row.layer_indices[layer]);
    if (place < errors.size() && !std::isnan(error)) {
      errors[place] = error;
      ++known;
    } else if (error > 0) {
      row.prediction_status = fmt::format("none: layer {} has no weight", row.layer_indices[layer]);
      return;
    }
  }
  row[Metric::predicted_kl] = law.kl(errors, row[Metric::lost_sink_mass]);

  std::vector<std::string> remarks;
  // The law's layers are those that can move: a calibration leaves sliding windows out.
  const std::size_t whole = source.calibration ? law.layers.size() : static_cast<std::size_t>(source.model_layers);
  const bool partial = known < whole;
  const bool moves = row[Metric::predicted_kl] > 0;
  if (partial) remarks.push_back(fmt::format("partial: {} of {} layers", known, whole));
  if (row[Metric::predicted_kl] > saturated_kl) remarks.emplace_back("saturated");
  if (row[Metric::lost_sink_mass] > largest_lost_sink_mass) remarks.emplace_back("sink lost");
  if (source.calibration && moves) {
    if (!partial && predictors_disagree(*source.calibration, row)) remarks.emplace_back("predictors disagree");
    if (lies_outside(*source.calibration, row)) remarks.emplace_back("outside calibration");
  }
  if (source.calibration && band_ && !partial) {
    row[Metric::predicted_kl_low] = row[Metric::predicted_kl] * band_->low;
    row[Metric::predicted_kl_high] = row[Metric::predicted_kl] * band_->high;
  } else {
    remarks.emplace_back("no band");
  }
  if (calibration_ && !source.calibration) remarks.emplace_back("by sensitivity");
  row.prediction_status = remarks.empty() ? "ok" : fmt::format("{}", fmt::join(remarks, "; "));
}

}  // namespace evictsim::analysis
