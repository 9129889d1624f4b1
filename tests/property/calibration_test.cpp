// Does the fit find constants that explain points made from known ones, the same each time, and write them as engines?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "analysis/calibration/accuracy.h"
#include "analysis/calibration/fit.h"
#include "sim/serving/measured_points.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::analysis;
namespace fs = std::filesystem;

namespace {

/// Loads and layouts of real points, with times that the bundled engines predict in place of the measured ones.
struct MadeUp {
  std::vector<sim::MeasuredPoint> points;
  std::vector<const sim::MeasuredPoint*> usable;
  std::map<std::string, std::string> families;

  explicit MadeUp(std::size_t every) {
    setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
    points = sim::read_measured_points(EVICTSIM_SOURCE_DIR "/tests/golden/data/aiconfigurator/silicon_sample.csv");
    families = families_of(points);
    for (std::size_t i = 0; i < points.size(); i += every) {
      sim::MeasuredPoint& point = points[i];
      if (point.status != "ok") continue;
      const sim::ClosedLoopTimes times = sim::predict(point);
      point.first_token_seconds = times.first_token;
      point.per_output_token_seconds = times.per_output_token;
      usable.push_back(&point);
    }
  }
};

double error_at(std::vector<double> ratios, double share) {
  for (double& ratio : ratios) ratio = std::abs(ratio - 1);
  std::sort(ratios.begin(), ratios.end());
  return ratios[static_cast<std::size_t>(share * static_cast<double>(ratios.size() - 1))];
}

}  // namespace

TEST_CASE("points made from constants are explained by the fit, and by the engines written from it") {
  const MadeUp made(3);
  REQUIRE(made.usable.size() > 80);
  const FittedConstants fitted = fit(made.usable, made.families);
  const PredictedOver predicted = seen(made.usable, made.families, fitted);
  // Priors pull, and far constants of a campaign with a single point stay far.
  CHECK(error_at(predicted.per_output_token, 0.5) < 0.02);
  CHECK(error_at(predicted.per_output_token, 0.9) < 0.06);
  CHECK(error_at(predicted.first_token, 0.5) < 0.04);
  CHECK(error_at(predicted.first_token, 0.9) < 0.12);

  std::map<std::string, models::Engine> engines;
  for (const sim::MeasuredPoint* const point : made.usable) {
    models::Engine& engine = engines[point->engine.name];
    if (engine.name.empty()) engine = with_constants(point->engine, fitted, made.usable, made.families);
    sim::MeasuredPoint again = *point;
    again.engine = engine;
    again.engine.version = point->engine.version;
    const models::EngineConstants own = constants_of(fitted, *point, made.families.at(point->model));
    const sim::ClosedLoopTimes expected = sim::times_of(*point, own);
    const sim::ClosedLoopTimes read = sim::predict(again);
    // Files hold four digits and leave effects below half a percent out, on up to five levels.
    CHECK(read.per_output_token == Approx(expected.per_output_token).epsilon(0.02));
    CHECK(read.first_token == Approx(expected.first_token).epsilon(0.03));
  }

  const FittedConstants twice = fit(made.usable, made.families);
  CHECK(twice.mean == fitted.mean);
  CHECK(twice.effects == fitted.effects);
}

TEST_CASE("models of equal sizes are one family, and one measurement under two names is in one fold") {
  MadeUp made(1);
  CHECK(made.families.at("deepseek-v3") == made.families.at("deepseek-r1"));
  CHECK(made.families.at("deepseek-v3") != made.families.at("kimi-k2.5"));
  sim::MeasuredPoint twin = *made.usable.front();
  twin.model = "another";
  twin.engine.version = "another";
  twin.per_output_token_seconds *= 1 + 1e-9;
  CHECK(fold_of_measurement(twin, 5) == fold_of_measurement(*made.usable.front(), 5));
  // Folds are about equally large.
  std::map<std::string, std::size_t> sizes;
  for (const sim::MeasuredPoint* const point : made.usable) ++sizes[fold_of_measurement(*point, 5)];
  CHECK(sizes.size() == 5);
  for (const auto& [fold, size] : sizes) CHECK(size > made.usable.size() / 10);
}

TEST_CASE("a point that a fold leaves out is predicted without it") {
  MadeUp made(4);
  // One point is measured three times slower than its constants say; the fit that sees it leans towards it.
  const auto place = static_cast<std::ptrdiff_t>(made.usable.size() / 2);
  sim::MeasuredPoint wrong = *made.usable[static_cast<std::size_t>(place)];
  wrong.per_output_token_seconds *= 1.2;
  made.usable[static_cast<std::size_t>(place)] = &wrong;
  const auto fold = [&](const sim::MeasuredPoint& point) { return std::string(&point == &wrong ? "wrong" : "others"); };
  const PredictedOver out = held_out(made.usable, made.families, fold);
  const PredictedOver in = seen(made.usable, made.families, fit(made.usable, made.families));
  CHECK(out.per_output_token[static_cast<std::size_t>(place)] < in.per_output_token[static_cast<std::size_t>(place)]);
}

TEST_CASE("tables replace what stands between their marks and nothing else") {
  const fs::path document = fs::path(EVICTSIM_TEST_SCRATCH) / "document.md";
  fs::create_directories(document.parent_path());
  std::ofstream(document) << "before\n<!-- fitted: begin -->\nold\n<!-- fitted: end -->\nbehind\n";
  replace_tables(document, "new\n");
  std::ifstream stream(document);
  std::stringstream text;
  text << stream.rdbuf();
  CHECK(text.str() == "before\n<!-- fitted: begin -->\n\nnew\n\n<!-- fitted: end -->\nbehind\n");
  std::ofstream(document) << "no marks\n";
  CHECK_THROWS_AS(replace_tables(document, "new\n"), Error);
  CHECK_THROWS_AS(replace_tables(document.parent_path() / "none.md", "new\n"), Error);
}
