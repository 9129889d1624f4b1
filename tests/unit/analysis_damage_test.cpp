// Are truth.csv and model.cal.json read as they were written and refused when wrong, and do rows, ranks and statuses of
// predicted damage follow their definitions?
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "analysis/csv.h"
#include "analysis/damage/calibration.h"
#include "analysis/damage/conformal.h"
#include "analysis/damage/predictor.h"
#include "analysis/damage/rank_measures.h"
#include "analysis/damage/ranking.h"
#include "analysis/damage/summed_errors.h"
#include "analysis/damage/truth_file.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::scratch;

template <typename Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw std::runtime_error("no error");
}

TruthRow truth_row(const std::string& text, const std::string& policy, const std::string& budget, double kl,
                   std::vector<double> errors) {
  TruthRow row;
  row.model = "m";
  row.text = text;
  row.rows = 8;
  row.kl = kl;
  row.run.policy = policy;
  row.run.budget = budget;
  row.run.sequence = "000000";
  for (std::size_t layer = 0; layer < errors.size(); ++layer) row.run.layer_indices.push_back(static_cast<int>(layer));
  row.run.layer_squared_errors = std::move(errors);
  return row;
}

/// `texts` texts of 40 points; layer 2 counts ten times as much as the others.
std::vector<TruthRow> many_rows(int texts) {
  std::vector<TruthRow> rows;
  for (int text = 0; text < texts; ++text) {
    for (int policy = 0; policy < 10; ++policy) {
      for (int budget = 1; budget <= 4; ++budget) {
        const double scale = (1 + 0.1 * policy) / budget;
        const std::vector<double> errors = {scale, scale * (1 + (policy * 7 + text) % 5),
                                            0.3 * scale * (1 + policy % 3), 0};
        const double kl = 0.01 * (errors[0] + errors[1] + 10 * errors[2]) * (1 + 0.1 * ((text + policy + budget) % 4));
        rows.push_back(truth_row("text" + std::to_string(text), "p" + std::to_string(policy),
                                 std::to_string(budget * 10), kl, errors));
      }
    }
  }
  return rows;
}

std::filesystem::path write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string file_of(const std::vector<TruthRow>& rows) {
  std::string text = csv_line(truth_column_names(rows.front().run.layer_indices));
  for (const TruthRow& row : rows) text += csv_line(truth_cells(row));
  return text;
}

RunRow run_row(const std::string& policy, const std::string& budget, double kl, double low, double high) {
  RunRow row;
  row.trace = "t.h5";
  row.sequence = "000000";
  row.policy = policy;
  row.budget = budget;
  row[Metric::predicted_kl] = kl;
  row[Metric::predicted_kl_low] = low;
  row[Metric::predicted_kl_high] = high;
  row[Metric::squared_error] = 10 * kl;
  row.prediction_status = "ok";
  return row;
}

traces::Header header_of(std::vector<int> layers, int model_layers, std::vector<double> sensitivity = {}) {
  traces::Header header;
  header.model = "m";
  header.num_layers = model_layers;
  header.layers = std::move(layers);
  header.sensitivity = std::move(sensitivity);
  return header;
}

RunRow row_with(std::vector<int> layers, std::vector<double> errors) {
  RunRow row;
  row.decode_rows = 8;
  row.layer_indices = std::move(layers);
  row.layer_squared_errors = std::move(errors);
  row[Metric::lost_sink_mass] = 0;
  return row;
}

}  // namespace

TEST_CASE("truth.csv reads back what was written, texts with commas and quotes too") {
  const std::filesystem::path folder = scratch("truth_round_trip");
  TruthRow row = truth_row("walden, \"1854\"@512", "adakv(snapkv(window=8,kernel=3))", "0.2", 0.125, {1.5, 0, 2.25});
  row.nll_change = -0.01;
  row.top1_agreement = 0.9;
  row.run.prompt_length = 512;
  row.run[Metric::damage_index] = 0.5;
  row.run.damage_index_kind = "summed_error";
  TruthRow failed = truth_row("b", "p", "0.2", not_available, {1, 1, 1});
  failed.run.status = "failed: why, and \"how\"";
  failed.run.layer_squared_errors.clear();
  const std::vector<TruthRow> read = read_truth(write(folder / "truth.csv", file_of({row, failed})));
  REQUIRE(read.size() == 2);
  CHECK(read[0].text == row.text);
  CHECK(read[0].run.policy == row.run.policy);
  CHECK(read[0].kl == row.kl);
  CHECK(read[0].nll_change == row.nll_change);
  CHECK(std::isnan(read[0].seconds));
  CHECK(read[0].run.prompt_length == 512);
  CHECK(read[0].run.layer_indices == std::vector<int>{0, 1, 2});
  CHECK(read[0].run.layer_squared_errors == row.run.layer_squared_errors);
  CHECK(read[0].run[Metric::damage_index] == 0.5);
  CHECK(read[0].run.damage_index_kind == "summed_error");
  CHECK(read[1].run.status == failed.run.status);
  CHECK(fold_of(read[0].text) == "walden, \"1854\"");
  CHECK(fold_of("walden") == "walden");
}

TEST_CASE("truth.csv that is wrong is refused by line and column") {
  const std::filesystem::path folder = scratch("truth_wrong");
  const std::string header = "model,text,trace,sequence,policy,budget,rows,kl,m_000\n";
  const auto refused = [&](const std::string& text) {
    const std::filesystem::path path = write(folder / "truth.csv", text);
    return error_of([&] { static_cast<void>(read_truth(path)); });
  };
  CHECK(refused("").code() == ErrorCode::missing_data);
  CHECK(refused(header).code() == ErrorCode::missing_data);
  CHECK(std::string(refused("model,text\nm,t\n").what()).find("no column trace") != std::string::npos);
  for (const char* cell : {"-0.5", "nan", "inf", "abc"}) {
    const Error error = refused(header + "m,t,a.h5,0,p,0.2,8," + cell + ",1\n");
    CHECK(error.code() == ErrorCode::invalid_value);
    CHECK(std::string(error.what()).find("kl") != std::string::npos);
  }
  CHECK(refused(header + "m,t,a.h5,0,p,0.2,8,,1\n").code() == ErrorCode::missing_data);
  for (const char* cell : {"-1", "nan"}) {
    const Error error = refused(header + "m,t,a.h5,0,p,0.2,8,0.1," + cell + "\n");
    CHECK(error.code() == ErrorCode::invalid_value);
    CHECK(std::string(error.what()).find("m_000") != std::string::npos);
  }
  CHECK(refused(header + "m,t,a.h5,0,p,0.2,8,0.1\n").code() == ErrorCode::invalid_value);
  CHECK(refused(header + "m,t,a.h5,0,p,0.2,-8,0.1,1\n").code() == ErrorCode::invalid_value);
  CHECK(refused("model,text,trace,sequence,policy,budget,rows,kl,kl\nm,t,,,p,0.2,8,1,1\n").code() ==
        ErrorCode::invalid_value);
  CHECK(read_truth(write(folder / "truth.csv", header + "m,t,a.h5,0,p,0.2,8,-1e-9,1\n"))[0].kl == -1e-9);
  CHECK(error_of([&] { static_cast<void>(read_truth(folder / "none.csv")); }).code() == ErrorCode::file_not_found);
}

TEST_CASE("ranks: ties share their mean, and pairs that are close do not count") {
  CHECK(spearman(std::vector<double>{1, 2, 3, 4}, std::vector<double>{10, 20, 30, 40}) == Approx(1));
  CHECK(spearman(std::vector<double>{1, 2, 3, 4}, std::vector<double>{4, 3, 2, 1}) == Approx(-1));
  // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5).
  CHECK(spearman(std::vector<double>{1, 2, 2, 4}, std::vector<double>{1, 2, 3, 4}) == Approx(std::sqrt(0.9)));
  CHECK(std::isnan(spearman(std::vector<double>{1, 1}, std::vector<double>{1, 2})));
  CHECK(std::isnan(spearman({}, {})));

  // Two texts, three policies: a = 1, b = 1.2 (too close to a), c = 2 on average; c and b are predicted the wrong way.
  std::vector<PredictedPoint> points;
  for (const auto& [text, shift] : {std::pair<const char*, double>{"x", 0.5}, {"y", -0.5}}) {
    points.push_back({text, "a", "0.2", 1 + shift, 1});
    points.push_back({text, "b", "0.2", 1.2 + shift, 4});
    points.push_back({text, "c", "0.2", 2 + shift, 2});
  }
  points.push_back({"x", "only in x", "0.2", 9, 9});
  const RankMeasures measures = measure_ranks(points);
  CHECK(measures.pairs == Approx(0.5));    // a < c right, b < c wrong
  CHECK(measures.average == Approx(0.5));  // ranks 0, 1, 2 against 0, 2, 1
  CHECK(measures.fixed_budget == Approx(0.5));
  CHECK(measures.texts == 2);
  CHECK(measures.points == 7);
  // x: 1.5, 1.7, 2.5 and 9: b and c are 1.47 apart, of five far pairs one is wrong. y: 0.5, 0.7, 1.5: all far, one
  // wrong.
  CHECK(measures.within_text_pairs == Approx(6.0 / 8));
  CHECK(measures.factor_90 >= measures.factor_median);
}

TEST_CASE("bands need enough residuals, and are order statistics of them") {
  CHECK(fewest_residuals(0.9) == 34);  // largest_coverage_deviation
  CHECK(fewest_residuals(0.5) == 98);
  CHECK(fewest_residuals(0.99) == 199);  // both order statistics
  CHECK_THROWS_AS(fewest_residuals(0.3), Error);
  CHECK_THROWS_AS(fewest_residuals(std::numeric_limits<double>::quiet_NaN()), Error);
  std::vector<double> residuals;
  for (int i = 99; i >= 1; --i) residuals.push_back(0.01 * i);
  const ConformalBand band = conformal_band(residuals, 0.9);  // places 5 and 95 of 99
  CHECK(band.low == Approx(std::exp(0.05)));
  CHECK(band.high == Approx(std::exp(0.95)));
  residuals.resize(33);
  CHECK(error_of([&] { static_cast<void>(conformal_band(residuals, 0.9)); }).code() == ErrorCode::missing_data);
}

TEST_CASE("a calibration leaves out rounding and failures, and refuses what it cannot judge") {
  std::vector<TruthRow> rows = many_rows(6);
  rows.push_back(truth_row("text0", "full", "1", 1e-9, {0, 0, 0, 0}));
  rows.push_back(truth_row("text0", "bad", "1", not_available, {}));
  rows.back().run.status = "failed: why";
  const CalibrationReport report = calibrate(rows, {});
  CHECK(report.points == 240);
  CHECK(report.too_small == 1);
  CHECK(report.failed == 1);
  CHECK(report.folds == 6);
  CHECK(report.has_band);
  // The layer that never moves has no weight.
  CHECK(report.calibration.law.layers == std::vector<int>{0, 1, 2});
  CHECK(report.calibration.law.weights[2] > 5 * report.calibration.law.weights[0]);
  CHECK(report.held_out.average > 0.95);
  CHECK(calibrate(many_rows(6), {.folds = 3}).folds == 3);
  CHECK_FALSE(calibrate(many_rows(4), {}).has_band);  // too few texts

  const auto refusal = [](const std::vector<TruthRow>& wrong, const CalibrationOptions& options = {}) {
    return error_of([&] { static_cast<void>(calibrate(wrong, options)); });
  };
  CHECK(std::string(refusal(many_rows(1)).what()).find("one text") != std::string::npos);
  CHECK(refusal({}).code() == ErrorCode::missing_data);
  std::vector<TruthRow> wrong = many_rows(2);
  wrong.back().model = "other";
  CHECK(refusal(wrong).code() == ErrorCode::invalid_value);
  wrong = many_rows(2);
  wrong.push_back(wrong.front());
  wrong.front().line = 2;
  wrong.back().line = 82;
  CHECK(std::string(refusal(wrong).what()).find("line 82: p0 at 10 in text0 stands there twice, first on line 2") !=
        std::string::npos);
  wrong = many_rows(2);
  wrong.back().run.layer_indices = {0, 1, 2, 5};
  CHECK(refusal(wrong).code() == ErrorCode::invalid_value);
  wrong = many_rows(2);
  for (TruthRow& row : wrong) row.run.layer_squared_errors.clear();
  CHECK(std::string(refusal(wrong).what()).find("m_000") != std::string::npos);
  wrong = {many_rows(2).front(), many_rows(2).back()};
  CHECK(std::string(refusal(wrong).what()).find("too few") != std::string::npos);
  wrong = many_rows(2);
  for (TruthRow& row : wrong) row.kl = 1e-8;
  CHECK(refusal(wrong).code() == ErrorCode::missing_data);
  // One text at two lengths is one text.
  wrong = many_rows(2);
  for (TruthRow& row : wrong) row.text = row.text == "text0" ? "text@512" : "text@1024";
  CHECK(std::string(refusal(wrong).what()).find("one text") != std::string::npos);
}

TEST_CASE("model.cal.json reads back as it was written, and is refused when wrong") {
  const std::filesystem::path folder = scratch("calibration_file");
  for (const LawForm form : {LawForm::linear, LawForm::saturating_total}) {
    std::vector<TruthRow> rows = many_rows(6);
    for (TruthRow& row : rows) {
      row.run.prompt_length = 640;
      row.run[Metric::kept_fraction] = 0.01 * std::stod(row.run.budget);
      row.run[Metric::lost_sink_mass] = row.run.policy == "p3" ? 0.2 : 0;
    }
    const DamageCalibration made = calibrate(rows, {.fit = {.form = form}}).calibration;
    write_calibration(folder / "model.cal.json", made);
    const DamageCalibration read = read_calibration(folder / "model.cal.json");
    CHECK(read.model == made.model);
    CHECK(read.law.form == form);
    CHECK(read.law.layers == made.law.layers);
    CHECK(read.law.weights == made.law.weights);
    CHECK(read.law.saturation == made.law.saturation);
    CHECK(read.residuals == made.residuals);
    CHECK(read.texts == made.texts);
    CHECK(read.index.has_value() == made.index.has_value());
    REQUIRE(read.range.has_value());
    CHECK(read.range->prompt_length.most == 640);
    CHECK(read.range->kept_fraction.least == made.range->kept_fraction.least);
    CHECK(read.law.sink_relief == made.law.sink_relief);
    CHECK(read.law.sink_relief != 0);
  }
  std::ifstream stream(folder / "model.cal.json");
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const std::size_t at = changed.find(from);
    REQUIRE(at != std::string::npos);
    changed.replace(at, from.size(), to);
    const std::filesystem::path path = write(folder / "wrong.json", changed);
    CHECK_THROWS_AS(read_calibration(path), Error);
  };
  refused("evictsim-damage", "other");
  refused("\"version\": 1", "\"version\": 99");
  refused("\"weight\": ", "\"weight\": -");
  refused("\"layer\": 1", "\"layer\": 0");
  refused("\"saturation\": ", "\"saturation\": -");
  refused("saturating_total", "cubic");
  refused("closed loop", "hearsay");
  refused("\"residuals\"", "\"residues\"");
  refused("\"kept_fraction\": [", "\"kept_fraction\": [7, ");
  refused("\"prompt_length\"", "\"length\"");
  for (const char* wrong : {"model,text\nm,t\n", "", "{\"a\": [1,\n 2,, 3]}", "{\"a\": 1e999}"}) {
    const Error error = error_of([&] { static_cast<void>(read_calibration(write(folder / "wrong.json", wrong))); });
    CHECK(std::string(error.what()).find("is not JSON") != std::string::npos);
    CHECK(std::string(error.what()).find("`evictsim calibrate` writes what is needed here") != std::string::npos);
    CHECK(std::string(error.what()).find("json.exception") == std::string::npos);
  }
  const Error nearby =
      error_of([&] { static_cast<void>(read_calibration(write(folder / "wrong.json", "{\"a\": [1,\n 2,, 3]}"))); });
  CHECK(std::string(nearby.what()).find("from line 2, column 4 on") != std::string::npos);
}

TEST_CASE("rows get a prediction from sensitivity, and a status that says where it ends") {
  const DamagePredictor predictor({header_of({0, 2}, 2, {0.5, 2})}, std::nullopt, 0.9);
  RunRow row = row_with({0, 2}, {0.1, 0.05});
  predictor.predict(0, row);
  CHECK(row[Metric::predicted_kl] == Approx(0.15));
  CHECK(std::isnan(row[Metric::predicted_kl_low]));
  CHECK(row.prediction_status == "no band");
  row = row_with({0, 2}, {1, 1});
  row[Metric::lost_sink_mass] = 0.3;
  predictor.predict(0, row);
  CHECK(row[Metric::predicted_kl] == Approx(2.5));
  CHECK(row.prediction_status == "saturated; sink lost; no band");
  // A part of the layers: what these do, and it says so.
  row = row_with({2}, {0.1});
  predictor.predict(0, row);
  CHECK(row[Metric::predicted_kl] == Approx(0.2));
  CHECK(row.prediction_status == "partial: 1 of 2 layers; no band");
  // Without W_O or decode rows, or where a layer has no weight: nothing, and why.
  row = row_with({0, 2}, {});
  predictor.predict(0, row);
  CHECK(std::isnan(row[Metric::predicted_kl]));
  CHECK(row.prediction_status == "none: a layer has no w_o");
  row = row_with({0, 1}, {0.1, 0.1});
  predictor.predict(0, row);
  CHECK(std::isnan(row[Metric::predicted_kl]));
  CHECK(row.prediction_status == "none: layer 1 has no weight");
  row = row_with({0, 2}, {0.1, 0.1});
  row.status = "failed: why";
  predictor.predict(0, row);
  CHECK(row.prediction_status.empty());
  const DamagePredictor without({header_of({0, 2}, 2)}, std::nullopt, 0.9);
  row = row_with({0, 2}, {0.1, 0.1});
  without.predict(0, row);
  CHECK(std::isnan(row[Metric::predicted_kl]));
  CHECK(row.prediction_status.find("none: ") == 0);
}

TEST_CASE("rows get a prediction with a band from a calibration of their model, and from no other") {
  const DamageCalibration made = calibrate(many_rows(6), {}).calibration;
  const DamagePredictor predictor({header_of({0, 1, 2, 3}, 4, {9, 9, 9, 9})}, made, 0.9);
  const std::vector<double> errors = {0.5, 0.4, 0.1, 0};
  RunRow row = row_with({0, 1, 2, 3}, errors);
  predictor.predict(0, row);
  const double expected = made.law.kl(std::vector<double>{0.5, 0.4, 0.1}, 0);
  CHECK(row[Metric::predicted_kl] == Approx(expected));
  const ConformalBand band = conformal_band(made.residuals, 0.9);
  CHECK(row[Metric::predicted_kl_low] == Approx(expected * band.low));
  CHECK(row[Metric::predicted_kl_high] == Approx(expected * band.high));
  CHECK(row.prediction_status == "ok");
  // Nothing cut: no damage, for certain.
  row = row_with({0, 1, 2, 3}, {0, 0, 0, 0});
  predictor.predict(0, row);
  CHECK(row[Metric::predicted_kl] == 0);
  CHECK(row[Metric::predicted_kl_high] == 0);
  CHECK(row.prediction_status == "ok");
  row = row_with({1, 2}, {0.4, 0.1});
  predictor.predict(0, row);
  CHECK(row.prediction_status == "partial: 2 of 3 layers; no band");
  CHECK(std::isnan(row[Metric::predicted_kl_low]));
  row = row_with({0, 1, 2, 3}, {0.5, 0.4, 0.1, 0.2});
  predictor.predict(0, row);
  CHECK(std::isnan(row[Metric::predicted_kl]));
  CHECK(row.prediction_status == "none: layer 3 has no weight");

  traces::Header other = header_of({0, 1, 2, 3}, 4);
  other.model = "other";
  const DamagePredictor mismatch({other, header_of({0, 1}, 2)}, made, 0.9);
  for (const std::size_t trace : {0U, 1U}) {
    row = row_with({0, 1}, {0.5, 0.4});
    mismatch.predict(trace, row);
    CHECK(std::isnan(row[Metric::predicted_kl]));
    CHECK(row.prediction_status == "none: " + mismatch.problem(trace));
    CHECK_FALSE(mismatch.predicts(trace));
    CHECK(row.prediction_status.find("none: the calibration") == 0);
  }
}

TEST_CASE("a trace that the calibration is not of keeps its own sensitivity, and says so") {
  const DamageCalibration made = calibrate(many_rows(6), {}).calibration;
  traces::Header other = header_of({0, 1}, 2, {0.5, 2});
  other.model = "other";
  const DamagePredictor predictor({other, header_of({0, 1, 2, 3}, 4, {9, 9, 9, 9})}, made, 0.9);
  CHECK(predictor.predicts(0));
  CHECK(predictor.problem(0) == "the calibration is of m, the trace of other");
  CHECK(predictor.problem(1).empty());
  RunRow row = row_with({0, 1}, {0.1, 0.05});
  predictor.predict(0, row);
  CHECK(row[Metric::predicted_kl] == Approx(0.15));
  CHECK(std::isnan(row[Metric::predicted_kl_low]));
  CHECK(row.prediction_status == "no band; by sensitivity");
  row = row_with({0, 1, 2, 3}, {0.5, 0.4, 0.1, 0});
  predictor.predict(1, row);
  CHECK(row[Metric::predicted_kl] == Approx(made.law.kl(std::vector<double>{0.5, 0.4, 0.1}, 0)));
}

TEST_CASE("a calibration knows between what its points lie, and rows beyond say so") {
  std::vector<TruthRow> rows = many_rows(6);
  CHECK_FALSE(calibrate(rows, {}).calibration.range.has_value());  // no row says it
  for (TruthRow& row : rows) {
    row.run.prompt_length = row.text == "text0" ? 1024 : 512;
    row.run[Metric::kept_fraction] = 0.01 * std::stod(row.run.budget);
  }
  const DamageCalibration made = calibrate(rows, {}).calibration;
  REQUIRE(made.range.has_value());
  CHECK(made.range->prompt_length.least == 512);
  CHECK(made.range->prompt_length.most == 1024);
  CHECK(made.range->kept_fraction.least == Approx(0.1));
  CHECK(made.range->kept_fraction.most == Approx(0.4));
  const DamagePredictor predictor({header_of({0, 1, 2, 3}, 4)}, made, 0.9);
  const auto status = [&](std::int64_t length, double share, double error) {
    RunRow row = row_with({0, 1, 2, 3}, {error, error, error / 5, 0});
    row.prompt_length = length;
    row[Metric::kept_fraction] = share;
    predictor.predict(0, row);
    CHECK_FALSE(std::isnan(row[Metric::predicted_kl_high]));
    return row.prediction_status;
  };
  CHECK(status(512, 0.1, 0.5) == "ok");
  CHECK(status(430, 0.47, 0.5) == "ok");  // up to a fifth beyond
  CHECK(status(1200, 0.2, 0.5) == "ok");
  CHECK(status(256, 0.2, 0.5) == "outside calibration");
  CHECK(status(1300, 0.2, 0.5) == "outside calibration");
  CHECK(status(512, 0.9, 0.5) == "outside calibration");
  CHECK(status(512, 0.05, 0.5) == "outside calibration");
  CHECK(status(256, 1, 0) == "ok");  // nothing cut, no damage, for certain
  std::vector<TruthRow> one = rows;
  one.front().run.prompt_length = 0;
  CHECK_FALSE(calibrate(one, {}).calibration.range.has_value());
}

TEST_CASE("the two predictors disagree when they lie further apart than they usually do") {
  DamageCalibration calibration;
  calibration.model = "m";
  calibration.law.layers = {0};
  calibration.law.weights = {1};
  calibration.index = IndexLaw{.kind = "summed_error", .level = 0, .exponent = 2, .usual_factor = 3};
  const DamagePredictor predictor({header_of({0}, 1)}, calibration, 0.9);
  for (const auto& [index, disagree] : {std::pair<double, bool>{0.3, false}, {0.1, true}, {0.9, true}}) {
    RunRow row = row_with({0}, {0.1});
    row[Metric::damage_index] = index;
    row.damage_index_kind = "summed_error";
    predictor.predict(0, row);
    CHECK((row.prediction_status.find("predictors disagree") != std::string::npos) == disagree);
    // An index of another kind is not compared.
    row.damage_index_kind = "squared_error";
    predictor.predict(0, row);
    CHECK(row.prediction_status == "no band");
  }
}

TEST_CASE("policies are ranked by predicted damage, and told apart only where bands do not overlap") {
  std::vector<RunRow> rows = {run_row("c", "0.2", 3, 2.5, 4), run_row("a", "0.2", 1, 0.8, 1.2),
                              run_row("b", "0.2", 1.1, 0.9, 1.3), run_row("a", "0.5", 0.5, 0.4, 0.6)};
  rows[0].prediction_status = "saturated; sink lost";
  rows.push_back(run_row("d", "0.2", 0, 0, 0));
  rows.back().status = "failed: why";
  const std::vector<BudgetRanking> rankings = rank_policies(rows);
  REQUIRE(rankings.size() == 2);
  const BudgetRanking& first = rankings[0];
  CHECK(first.measure == "predicted_kl");
  REQUIRE(first.policies.size() == 3);
  CHECK(first.policies[0].policy == "a");
  CHECK_FALSE(first.policies[0].like_previous);
  CHECK(first.policies[1].policy == "b");
  CHECK(first.policies[1].like_previous);
  CHECK(first.policies[2].policy == "c");
  CHECK_FALSE(first.policies[2].like_previous);
  CHECK(first.policies[2].remark == "saturated; sink lost");
  CHECK(first.without_damage == std::vector<std::string>{"d"});
  CHECK(first.policies[1].place == 2);
  const std::string text = text_of(rankings, 0.9);
  CHECK(text.find("~   2  b") != std::string::npos);
  CHECK(text.find("90 %") != std::string::npos);

  // Equal numbers are equal places, not an order.
  std::vector<RunRow> tied = {run_row("c", "0.2", 1, 0.5, 2), run_row("a", "0.2", 1, 0.5, 2),
                              run_row("b", "0.2", 1.5, 0.9, 3), run_row("d", "0.2", 0.5, 0.1, 0.2)};
  const BudgetRanking equal = rank_policies(tied).front();
  REQUIRE(equal.policies.size() == 4);
  CHECK(equal.policies[0].place == 1);
  CHECK(equal.policies[1].place == 2);
  CHECK(equal.policies[2].place == 2);
  CHECK(equal.policies[3].place == 4);
  const std::string tie = text_of({equal}, 0.9);
  CHECK(tie.find("    2  a") != std::string::npos);
  CHECK(tie.find("=   2  c") != std::string::npos);
  CHECK(tie.find("~   4  b") != std::string::npos);
  CHECK(tie.find("=: the same number") != std::string::npos);
  CHECK(text.find("=: the same number") == std::string::npos);

  // One row without prediction: all of its budget is ranked by the index.
  rows[1][Metric::predicted_kl] = not_available;
  const BudgetRanking by_index = rank_policies(rows).front();
  CHECK(by_index.measure == "squared_error");
  REQUIRE(by_index.policies.size() == 3);
  CHECK(by_index.policies[0].policy == "a");
  CHECK(std::isnan(by_index.policies[0].low));
}

TEST_CASE("a sequence that a policy could not do takes no part in its budget's ranking") {
  std::vector<RunRow> rows;
  for (const char* sequence : {"0", "1"}) {
    for (const auto& [policy, kl] : {std::pair<const char*, double>{"a", 1}, {"b", 2}}) {
      rows.push_back(run_row(policy, "0.2", sequence[0] == '0' ? kl : 10 * kl, not_available, not_available));
      rows.back().sequence = sequence;
    }
  }
  rows.pop_back();  // b lacks the second sequence
  const BudgetRanking ranking = rank_policies(rows).front();
  REQUIRE(ranking.policies.size() == 2);
  CHECK(ranking.policies[0].damage == 1);
  CHECK(ranking.policies[1].damage == 2);
  CHECK(ranking.policies[0].sequences == 1);
}

TEST_CASE("summed errors do not depend on the order of layers, and refuse what they cannot hold") {
  sim::SequenceStart start;
  start.layers = {0, 1, 2};
  start.summed_rows = {5, 7};
  start.final_norms = {2, 4};
  const std::vector<std::int32_t> rows = {5, 7};
  const std::vector<std::vector<float>> values = {{0.1F, 1, -3, 0.7F}, {1e-7F, 2, 0.3F, -5}, {-0.1F, 4, 1, 1e-3F}};
  const auto mean_of = [&](const std::vector<std::size_t>& order, float factor) {
    SummedErrors sums(start, 1);
    for (const std::size_t layer : order) {
      std::vector<float> scaled = values[layer];
      for (float& value : scaled) value *= factor;
      const sim::LayerBlock block{.point = 0,
                                  .layer = layer,
                                  .rows = rows,
                                  .retained_mass = models::view(nullptr, 0, 0),
                                  .output_error = models::view(nullptr, 0, 0),
                                  .dilution = models::view(nullptr, 0, 0),
                                  .entropy = models::view(nullptr, 0, 0),
                                  .regret = models::view(nullptr, 0, 0),
                                  .oracle_gain = models::view(nullptr, 0, 0),
                                  .premature_evictions = models::view(nullptr, 0, 0),
                                  .summed_error = {.rows = rows, .values = scaled}};
      sums.add(block);
    }
    return sums.mean(0);
  };
  const double expected = (std::hypot(1e-7, 7.0) / 2 + std::hypot(-1.7, -4.299) / 4) / 2;
  CHECK(mean_of({0, 1, 2}, 1) == Approx(expected).epsilon(1e-6));
  CHECK(mean_of({2, 0, 1}, 1) == mean_of({0, 1, 2}, 1));
  CHECK(std::isnan(mean_of({0, 1}, 1)));        // a layer is missing
  CHECK(std::isnan(mean_of({0, 1, 2}, 1e5F)));  // beyond 4096 times the stream
}
