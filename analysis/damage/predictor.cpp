#include "analysis/damage/predictor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace evictsim::analysis {

std::optional<DamageLaw> sensitivity_law(const traces::Header& header) {
  if (header.sensitivity.empty()) return std::nullopt;
  DamageLaw law;
  law.layers = header.layers;
  // Measured close to 0, a sensitivity may come out below it.
  for (const double weight : header.sensitivity) law.weights.push_back(std::max(weight, 0.0));
  return law;
}

DamagePredictor::DamagePredictor(std::vector<traces::Header> headers, std::optional<DamageCalibration> calibration,
                                 double coverage)
    : calibration_(std::move(calibration)) {
  for (const traces::Header& header : headers) {
    Source source{.problem = {}, .law = {}, .model_layers = header.num_layers};
    if (!calibration_) {
      source.law = sensitivity_law(header);
      if (!source.law) source.problem = "none: neither /model/sensitivity nor --calibration";
    } else if (calibration_->model != header.model) {
      source.problem =
          fmt::format("none: the calibration is of {}, the trace of {}", calibration_->model, header.model);
    } else if (calibration_->law.layers.back() >= header.num_layers) {
      source.problem = fmt::format("none: the calibration weighs layer {}, the model has {}",
                                   calibration_->law.layers.back(), header.num_layers);
    } else {
      source.law = calibration_->law;
    }
    sources_.push_back(std::move(source));
  }
  if (calibration_ && calibration_->has_band(coverage)) band_ = conformal_band(calibration_->residuals, coverage);
}

std::string DamagePredictor::problem(std::size_t trace) const { return sources_[trace].problem; }

bool DamagePredictor::predictors_disagree(const RunRow& row) const {
  if (!calibration_ || !calibration_->index || calibration_->index->kind != row.damage_index_kind) return false;
  const double other = calibration_->index->kl(row[Metric::damage_index]);
  const double predicted = row[Metric::predicted_kl];
  if (!(predicted > 0) || !(other > 0)) return false;
  return std::abs(std::log(predicted / other)) > std::log(calibration_->index->usual_factor);
}

void DamagePredictor::predict(std::size_t trace, RunRow& row) const {
  if (!row.ok()) return;
  const Source& source = sources_[trace];
  row.prediction_status = source.problem;
  if (!source.law) return;
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
  row[Metric::predicted_kl] = law.kl(errors);

  std::vector<std::string> remarks;
  // The law's layers are those that can move: a calibration leaves sliding windows out.
  const std::size_t whole = calibration_ ? law.layers.size() : static_cast<std::size_t>(source.model_layers);
  const bool partial = known < whole;
  if (partial) remarks.push_back(fmt::format("partial: {} of {} layers", known, whole));
  if (row[Metric::predicted_kl] > saturated_kl) remarks.emplace_back("saturated");
  if (row[Metric::lost_sink_mass] > largest_lost_sink_mass) remarks.emplace_back("sink lost");
  if (!partial && predictors_disagree(row)) remarks.emplace_back("predictors disagree");
  if (band_ && !partial) {
    row[Metric::predicted_kl_low] = row[Metric::predicted_kl] * band_->low;
    row[Metric::predicted_kl_high] = row[Metric::predicted_kl] * band_->high;
  } else {
    remarks.emplace_back("no band");
  }
  row.prediction_status = remarks.empty() ? "ok" : fmt::format("{}", fmt::join(remarks, "; "));
}

}  // namespace evictsim::analysis
