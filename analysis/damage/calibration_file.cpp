#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/damage/calibration.h"
#include "analysis/damage/conformal.h"
#include "analysis/version.h"
#include "models/json_fields.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

using Json = nlohmann::ordered_json;
using models::JsonFields;
using Range = models::JsonFields::Range;

constexpr const char* format_name = "evictsim-damage";
constexpr int format_version = 1;

std::string cell(double value) { return std::isnan(value) ? "-" : fmt::format("{:.3f}", value); }

DamageLaw read_law(JsonFields fields, std::vector<JsonFields> layers) {
  DamageLaw law;
  const std::string form = fields.text("form");
  if (form != "linear" && form != "saturating_layer" && form != "saturating_total") {
    fields.refuse("form", "must be linear, saturating_layer or saturating_total");
  }
  law.form = law_form_of(form);
  law.exponent = fields.number("exponent", Range::positive);
  if (law.form != LawForm::linear) law.saturation = fields.number("saturation", Range::positive);
  law.sink_relief = fields.optional_number("sink_relief", Range::any).value_or(0);
  fields.finish();
  for (JsonFields& layer : layers) {
    const std::int64_t index = layer.whole("layer", Range::not_negative);
    if (!law.layers.empty() && index <= law.layers.back()) layer.refuse("layer", "must be above the one before");
    if (index > 999) layer.refuse("layer", "must be at most 999");
    law.layers.push_back(static_cast<int>(index));
    law.weights.push_back(layer.number("weight", Range::not_negative));
    layer.finish();
  }
  return law;
}

CalibratedRange read_range(JsonFields fields) {
  const auto bounds = [&](const char* name) {
    const std::vector<double> pair = fields.numbers(name, Range::positive);
    if (pair.size() != 2 || pair[0] > pair[1]) fields.refuse(name, "must be the least and the greatest value");
    return CalibratedRange::Bounds{pair[0], pair[1]};
  };
  const CalibratedRange range{.prompt_length = bounds("prompt_length"), .kept_fraction = bounds("kept_fraction")};
  fields.finish();
  return range;
}

/// The file, or what it should be instead.
nlohmann::json parse_calibration(const std::filesystem::path& path) {
  try {
    return models::parse_json_file(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_value) throw;
    throw Error(error.code(), error.message() + "; `evictsim calibrate` writes what is needed here", error.context());
  }
}

}  // namespace

std::string text_of(const CalibrationReport& report) {
  std::size_t widest = 0;
  for (const PredictorMeasures& predictor : report.predictors) widest = std::max(widest, predictor.name.size());
  std::string text = fmt::format("{}: {} points of {} texts, in {} folds", report.calibration.model, report.points,
                                 report.texts, report.folds);
  if (report.too_small > 0) text += fmt::format("; {} left out whose KL is rounding", report.too_small);
  if (report.failed > 0) text += fmt::format("; {} left out that failed", report.failed);
  text +=
      fmt::format("\n\n| {:<{}} | avg | fix | pair | in text | fix in text | pair in text | factor, median | 90 % |\n",
                  "predictor", widest);
  text += fmt::format("|{:-<{}}|---|---|---|---|---|---|---|---|\n", "", widest + 2);
  for (const PredictorMeasures& predictor : report.predictors) {
    const RankMeasures& m = predictor.measures;
    text += fmt::format("| {:<{}} | {} | {} | {} | {} | {} | {} | {} | {} |\n", predictor.name, widest, cell(m.average),
                        cell(m.fixed_budget), cell(m.pairs), cell(m.within_text), cell(m.within_text_budget),
                        cell(m.within_text_pairs), predictor.has_scale ? fmt::format("{:.2f}", m.factor_median) : "-",
                        predictor.has_scale ? fmt::format("{:.2f}", m.factor_90) : "-");
  }
  if (report.has_band) {
    return text + fmt::format(
                      "\nBand at {:.0f} %: {:.2f} to {:.2f} times the prediction, from {} held-out residuals; held for "
                      "{:.1f} % of the points of texts left out.\n",
                      100 * report.coverage, report.band_low, report.band_high, report.points,
                      100 * report.held_coverage);
  }
  return text + fmt::format("\nNo band at {:.0f} %: it needs {} points and {} texts.\n", 100 * report.coverage,
                            fewest_residuals(report.coverage), fewest_band_texts);
}

void write_calibration(const std::filesystem::path& path, const DamageCalibration& calibration) {
  Json content;
  content["format"] = format_name;
  content["version"] = format_version;
  content["evictsim_version"] = version();
  content["model"] = calibration.model;
  content["weights_from"] = calibration.from_sensitivity ? "sensitivity" : "closed loop";
  Json law;
  law["form"] = to_string(calibration.law.form);
  law["exponent"] = calibration.law.exponent;
  if (calibration.law.form != LawForm::linear) law["saturation"] = calibration.law.saturation;
  if (calibration.law.sink_relief != 0) law["sink_relief"] = calibration.law.sink_relief;
  content["law"] = law;
  content["layers"] = Json::array();
  for (std::size_t place = 0; place < calibration.law.layers.size(); ++place) {
    content["layers"].push_back({{"layer", calibration.law.layers[place]}, {"weight", calibration.law.weights[place]}});
  }
  if (calibration.index) {
    content["index"] = {{"kind", calibration.index->kind},
                        {"level", calibration.index->level},
                        {"exponent", calibration.index->exponent},
                        {"usual_factor", calibration.index->usual_factor}};
  }
  if (calibration.range) {
    const auto pair = [](const CalibratedRange::Bounds& bounds) { return std::vector{bounds.least, bounds.most}; };
    content["range"] = {{"prompt_length", pair(calibration.range->prompt_length)},
                        {"kept_fraction", pair(calibration.range->kept_fraction)}};
  }
  content["texts"] = calibration.texts;
  content["residuals"] = calibration.residuals;
  models::write_json_file(path, content, 1);
}

DamageCalibration read_calibration(const std::filesystem::path& path) {
  const nlohmann::json content = parse_calibration(path);
  JsonFields fields(content, path.string());
  fields.expect_format(format_name, format_version);
  fields.text("evictsim_version");
  DamageCalibration calibration;
  calibration.model = fields.text("model");
  const std::string source = fields.text("weights_from");
  if (source != "sensitivity" && source != "closed loop")
    fields.refuse("weights_from", "must be sensitivity or closed loop");
  calibration.from_sensitivity = source == "sensitivity";
  calibration.law = read_law(fields.object("law"), fields.objects("layers"));
  if (calibration.law.layers.empty()) fields.refuse("layers", "must name a layer");
  if (fields.has("index")) {
    JsonFields index = fields.object("index");
    calibration.index = IndexLaw{.kind = index.text("kind"),
                                 .level = index.number("level", Range::any),
                                 .exponent = index.number("exponent", Range::any),
                                 .usual_factor = index.number("usual_factor", Range::positive)};
    index.finish();
  }
  if (fields.has("range")) calibration.range = read_range(fields.object("range"));
  calibration.texts = fields.texts("texts");
  calibration.residuals = fields.numbers("residuals", Range::any);
  fields.finish();
  return calibration;
}

}  // namespace evictsim::analysis
