#include "analysis/damage/calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "analysis/damage/conformal.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Points that take part, and the rows they come from.
struct CalibrationData {
  std::string model;
  std::vector<int> layers;
  std::vector<DamagePoint> points;
  std::vector<const TruthRow*> rows;  ///< [points]
  std::vector<std::string> texts;     ///< what is held out together, in the order of their first rows
  std::size_t too_small = 0, failed = 0;

  [[nodiscard]] std::size_t text_of(std::size_t point) const {
    return static_cast<std::size_t>(std::find(texts.begin(), texts.end(), points[point].fold) - texts.begin());
  }
};

void require(bool good, ErrorCode code, const std::string& what, const std::string& dataset = {}) {
  if (!good) throw Error(code, what, {.file = {}, .dataset = dataset, .parameter = {}, .value = {}});
}

/// "line 7: " where the row comes from a file.
std::string line_of(const TruthRow& row) { return row.line > 0 ? fmt::format("line {}: ", row.line) : std::string(); }

CalibrationData data_of(std::span<const TruthRow> rows, const CalibrationOptions& options) {
  CalibrationData data;
  const std::vector<int>* layers = nullptr;
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> lines;
  for (const TruthRow& row : rows) {
    if (data.model.empty()) data.model = row.model;
    require(row.model == data.model, ErrorCode::invalid_value,
            fmt::format("{}is of {}, rows before it of {}; a calibration is of one model", line_of(row), row.model,
                        data.model),
            "model");
    if (!row.run.ok()) {
      ++data.failed;
      continue;
    }
    require(
        !row.run.layer_squared_errors.empty(), ErrorCode::missing_data,
        fmt::format("errors of layers are missing for {} at {} in {}: give truth.csv with columns m_000 and so on, or "
                    "the traces of the same runs, with w_o",
                    row.run.policy, row.run.budget, row.text));
    if (layers == nullptr) layers = &row.run.layer_indices;
    require(row.run.layer_indices == *layers, ErrorCode::invalid_value,
            fmt::format("{}{} has layers {}, others have {}", line_of(row), row.text,
                        fmt::join(row.run.layer_indices, ","), fmt::join(*layers, ",")));
    const auto [known, is_new] = lines.try_emplace({row.text, row.run.policy, row.run.budget}, row.line);
    require(is_new, ErrorCode::invalid_value,
            fmt::format("{}{} at {} in {} stands there twice{}; leave one row", line_of(row), row.run.policy,
                        row.run.budget, row.text,
                        known->second > 0 ? fmt::format(", first on line {}", known->second) : std::string()));
    const std::vector<double>& errors = row.run.layer_squared_errors;
    for (const double error : errors) {
      require(std::isfinite(error) && error >= 0, ErrorCode::invalid_value,
              fmt::format("the squared error of a layer in {} is {}", row.text, error));
    }
    if (row.kl < options.smallest_kl || *std::max_element(errors.begin(), errors.end()) <= 0) {
      ++data.too_small;
      continue;
    }
    data.points.push_back({.fold = fold_of(row.text),
                           .text = row.text,
                           .policy = row.run.policy,
                           .budget = row.run.budget,
                           .kl = row.kl,
                           .squared_errors = errors,
                           .lost_sink_mass = row.run[Metric::lost_sink_mass]});
    data.rows.push_back(&row);
    if (data.text_of(data.points.size() - 1) == data.texts.size()) data.texts.push_back(data.points.back().fold);
  }
  require(!data.points.empty(), ErrorCode::missing_data,
          fmt::format("no row has a KL of {} or more and an error behind W_O", options.smallest_kl), "kl");

  const bool knows_sinks = std::none_of(data.points.begin(), data.points.end(),
                                        [](const DamagePoint& point) { return std::isnan(point.lost_sink_mass); });
  for (DamagePoint& point : data.points) point.lost_sink_mass = knows_sinks ? point.lost_sink_mass : 0.0;

  // A layer that never moves (a sliding window) has no weight.
  std::vector<std::size_t> moving;
  for (std::size_t layer = 0; layer < layers->size(); ++layer) {
    const bool moves = std::any_of(data.points.begin(), data.points.end(),
                                   [layer](const DamagePoint& point) { return point.squared_errors[layer] > 0; });
    if (moves) moving.push_back(layer);
  }
  for (const std::size_t layer : moving) data.layers.push_back((*layers)[layer]);
  for (DamagePoint& point : data.points) {
    std::vector<double> errors;
    for (const std::size_t layer : moving) errors.push_back(point.squared_errors[layer]);
    point.squared_errors = std::move(errors);
  }
  return data;
}

using PointPointers = std::vector<const DamagePoint*>;

double kl_of(const DamageLaw& law, const DamagePoint& point) {
  return law.kl(point.squared_errors, point.lost_sink_mass);
}

/// Every point's log KL as predicted without the texts of its fold.
std::vector<double> held_out_logs(const CalibrationData& data, std::size_t folds, const FitOptions& options) {
  std::vector<double> logs(data.points.size());
  for (std::size_t fold = 0; fold < folds; ++fold) {
    PointPointers others;
    for (std::size_t point = 0; point < data.points.size(); ++point) {
      if (data.text_of(point) % folds != fold) others.push_back(&data.points[point]);
    }
    const DamageLaw law = fit_law(others, data.layers, options);
    for (std::size_t point = 0; point < data.points.size(); ++point) {
      if (data.text_of(point) % folds == fold) logs[point] = std::log(kl_of(law, data.points[point]));
    }
  }
  return logs;
}

std::vector<double> logs_of(const CalibrationData& data, const DamageLaw& law) {
  std::vector<double> logs;
  for (const DamagePoint& point : data.points) {
    std::vector<double> errors;
    for (const int layer : law.layers) {
      const auto found = std::lower_bound(data.layers.begin(), data.layers.end(), layer);
      const bool known = found != data.layers.end() && *found == layer;
      errors.push_back(known ? point.squared_errors[static_cast<std::size_t>(found - data.layers.begin())] : 0.0);
    }
    logs.push_back(std::log(law.kl(errors, point.lost_sink_mass)));
  }
  return logs;
}

RankMeasures measures_of(const CalibrationData& data, const std::function<double(std::size_t)>& predicted) {
  std::vector<PredictedPoint> points;
  for (std::size_t point = 0; point < data.points.size(); ++point) {
    const DamagePoint& of = data.points[point];
    points.push_back({of.text, of.policy, of.budget, of.kl, predicted(point)});
  }
  return measure_ranks(points);
}

PredictorMeasures scaled(const CalibrationData& data, std::string name, const std::vector<double>& logs) {
  return {std::move(name), measures_of(data, [&](std::size_t point) { return std::exp(logs[point]); }), true};
}

/// Where the points lie; empty where a row does not say it.
std::optional<CalibratedRange> range_of(const CalibrationData& data) {
  const auto range = [&](const std::function<double(const RunRow&)>& value) {
    CalibratedRange::Bounds bounds{.least = value(data.rows.front()->run), .most = value(data.rows.front()->run)};
    for (const TruthRow* row : data.rows) {
      const double at = value(row->run);
      if (!(at > 0)) return CalibratedRange::Bounds{};
      bounds = {std::min(bounds.least, at), std::max(bounds.most, at)};
    }
    return bounds;
  };
  const CalibratedRange found{
      .prompt_length = range([](const RunRow& row) { return static_cast<double>(row.prompt_length); }),
      .kept_fraction = range([](const RunRow& row) { return row[Metric::kept_fraction]; })};
  if (!(found.prompt_length.least > 0 && found.kept_fraction.least > 0)) return std::nullopt;
  return found;
}

/// What a replay says without weights.
void add_aggregates(const CalibrationData& data, std::vector<PredictorMeasures>& predictors) {
  const auto add = [&](std::string name, const std::function<double(const TruthRow&)>& value) {
    for (const TruthRow* row : data.rows) {
      if (std::isnan(value(*row))) return;
    }
    predictors.push_back(
        {std::move(name), measures_of(data, [&](std::size_t point) { return value(*data.rows[point]); }), false});
  };
  const auto metric = [&](const char* name, Metric column, double sign) {
    add(name, [column, sign](const TruthRow& row) { return sign * row.run[column]; });
  };
  const std::string& kind = data.rows.front()->run.damage_index_kind;
  const bool summed =
      kind == "summed_error" && std::all_of(data.rows.begin(), data.rows.end(),
                                            [&](const TruthRow* row) { return row->run.damage_index_kind == kind; });
  if (summed) metric("norm of the summed errors over the final norm", Metric::damage_index, 1);
  add("sum of squared errors behind W_O", [](const TruthRow& row) {
    const std::vector<double>& errors = row.run.layer_squared_errors;
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  });
  metric("relative error behind W_O, mean", Metric::layer_error, 1);
  metric("relative error per head, mean", Metric::output_error, 1);
  metric("lost attention mass", Metric::retained_mass, -1);
  metric("share of entries cut", Metric::kept_fraction, -1);
}

/// Least squares of log KL on log index, and how far the two predictors usually lie apart.
std::optional<IndexLaw> index_law_of(const CalibrationData& data, const std::vector<double>& logs) {
  IndexLaw law{.kind = data.rows.front()->run.damage_index_kind};
  if (law.kind.empty()) return std::nullopt;
  const auto count = static_cast<double>(data.rows.size());
  double x = 0;
  double y = 0;
  std::vector<double> index;
  for (std::size_t point = 0; point < data.rows.size(); ++point) {
    const RunRow& row = data.rows[point]->run;
    if (row.damage_index_kind != law.kind || !(row[Metric::damage_index] > 0)) return std::nullopt;
    index.push_back(std::log(row[Metric::damage_index]));
    x += index.back() / count;
    y += std::log(data.points[point].kl) / count;
  }
  double xx = 0;
  double xy = 0;
  for (std::size_t point = 0; point < index.size(); ++point) {
    xx += (index[point] - x) * (index[point] - x);
    xy += (index[point] - x) * (std::log(data.points[point].kl) - y);
  }
  if (!(xx > 0)) return std::nullopt;
  law.exponent = xy / xx;
  law.level = y - law.exponent * x;
  std::vector<double> apart;
  for (std::size_t point = 0; point < index.size(); ++point) {
    apart.push_back(std::abs(law.level + law.exponent * index[point] - logs[point]));
  }
  std::sort(apart.begin(), apart.end());
  constexpr double usual = 0.95;
  law.usual_factor = std::exp(apart[static_cast<std::size_t>(usual * static_cast<double>(apart.size() - 1))]);
  return law;
}

/// Bands from the residuals of all other texts, checked on every text.
double coverage_of(const CalibrationData& data, const std::vector<double>& residuals, std::size_t folds,
                   double coverage) {
  std::size_t inside = 0;
  std::size_t checked = 0;
  for (std::size_t fold = 0; fold < folds; ++fold) {
    std::vector<double> others;
    for (std::size_t point = 0; point < residuals.size(); ++point) {
      if (data.text_of(point) % folds != fold) others.push_back(residuals[point]);
    }
    if (others.size() < fewest_residuals(coverage)) continue;
    const ConformalBand band = conformal_band(others, coverage);
    for (std::size_t point = 0; point < residuals.size(); ++point) {
      if (data.text_of(point) % folds != fold) continue;
      const double factor = std::exp(residuals[point]);
      ++checked;
      if (factor >= band.low && factor <= band.high) ++inside;
    }
  }
  return checked == 0 ? not_available : static_cast<double>(inside) / static_cast<double>(checked);
}

}  // namespace

double IndexLaw::kl(double index) const { return std::exp(level) * std::pow(index, exponent); }

bool CalibratedRange::Bounds::holds(double value) const {
  return value >= least / calibrated_margin && value <= most * calibrated_margin;
}

bool DamageCalibration::has_band(double coverage) const {
  return texts.size() >= fewest_band_texts && residuals.size() >= fewest_residuals(coverage);
}

CalibrationReport calibrate(std::span<const TruthRow> rows, const CalibrationOptions& options) {
  require(!rows.empty(), ErrorCode::missing_data, "there are no rows to calibrate with");
  const CalibrationData data = data_of(rows, options);
  require(
      data.texts.size() >= 2, ErrorCode::missing_data,
      fmt::format("all points are of one text, {}; weights are checked on texts that they were not fitted to, which "
                  "needs two or more",
                  data.texts.front()),
      "text");
  if (!options.use_sensitivity) {
    require(data.points.size() >= fewest_points_per_layer * data.layers.size(), ErrorCode::missing_data,
            fmt::format("{} points are too few for the weights of {} layers; give as many points as layers, or more",
                        data.points.size(), data.layers.size()));
  }
  const std::size_t folds = options.folds == 0 ? data.texts.size() : std::min(options.folds, data.texts.size());
  require(folds >= 2, ErrorCode::invalid_argument, "one fold leaves nothing to fit to; give two or more", "folds");

  CalibrationReport report;
  report.points = data.points.size();
  report.texts = data.texts.size();
  report.folds = folds;
  report.too_small = data.too_small;
  report.failed = data.failed;
  report.coverage = options.coverage;

  DamageCalibration& made = report.calibration;
  made.model = data.model;
  made.texts = data.texts;
  std::sort(made.texts.begin(), made.texts.end());
  std::vector<double> logs;
  if (options.use_sensitivity) {
    made.from_sensitivity = true;
    made.law = *options.sensitivity;
    logs = logs_of(data, made.law);
    report.predictors.push_back(scaled(data, "sensitivity alone", logs));
  } else {
    PointPointers all;
    for (const DamagePoint& point : data.points) all.push_back(&point);
    made.law = fit_law(all, data.layers, options.fit);
    logs = held_out_logs(data, folds, options.fit);
    report.predictors.push_back(
        scaled(data, fmt::format("fitted weights, {} law, held out", to_string(options.fit.form)), logs));
    for (const LawForm form : {LawForm::linear, LawForm::saturating_layer, LawForm::saturating_total}) {
      if (form == options.fit.form) continue;
      FitOptions other = options.fit;
      other.form = form;
      report.predictors.push_back(scaled(data, fmt::format("fitted weights, {} law, held out", to_string(form)),
                                         held_out_logs(data, folds, other)));
    }
    if (made.law.sink_relief != 0) {
      FitOptions alike = options.fit;
      alike.fit_sinks = false;
      report.predictors.push_back(
          scaled(data, "the first of these, lost sinks counted like other errors", held_out_logs(data, folds, alike)));
    }
    if (options.sensitivity) {
      report.predictors.push_back(scaled(data, "sensitivity alone", logs_of(data, *options.sensitivity)));
    }
  }
  report.held_out = report.predictors.front().measures;
  add_aggregates(data, report.predictors);

  for (std::size_t point = 0; point < logs.size(); ++point) {
    require(std::isfinite(logs[point]), ErrorCode::invalid_value,
            fmt::format("no KL is predicted for {} at {} in {}: only layers without weight move there",
                        data.points[point].policy, data.points[point].budget, data.points[point].text));
    made.residuals.push_back(std::log(data.points[point].kl) - logs[point]);
  }
  made.index = index_law_of(data, logs);
  made.range = range_of(data);
  report.has_band = made.has_band(options.coverage);
  if (report.has_band) {
    const ConformalBand band = conformal_band(made.residuals, options.coverage);
    report.band_low = band.low;
    report.band_high = band.high;
    report.held_coverage = coverage_of(data, made.residuals, folds, options.coverage);
  }
  std::sort(made.residuals.begin(), made.residuals.end());
  return report;
}

}  // namespace evictsim::analysis
