/// `evictsim-fit`: fits the constants of engines to measured serving points and to times of layers on GPUs, and says
/// how well they predict others.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "analysis/calibration/accuracy.h"
#include "analysis/calibration/fit.h"
#include "analysis/calibration/layer_profile.h"
#include "models/data_files.h"
#include "models/engine.h"
#include "sim/serving/measured_points.h"
#include "traces/error.h"

namespace {

using namespace evictsim;

struct Options {
  std::string points;
  std::vector<std::string> layers;
  std::string engines;
  std::string report;
  std::vector<std::string> sources;
};

/// Measured points, those of them that can be fitted to, and what is fitted.
struct Fitted {
  std::vector<sim::MeasuredPoint> points;
  std::vector<const sim::MeasuredPoint*> usable;
  std::map<std::string, std::string> families;
  analysis::FittedConstants constants;

  explicit Fitted(const std::string& file) : points(sim::read_measured_points(file)) {
    families = analysis::families_of(points);
    for (const sim::MeasuredPoint& point : points) {
      if (point.status == "ok" && point.first_token_seconds > 0 && point.per_output_token_seconds > 0) {
        usable.push_back(&point);
      }
    }
    if (usable.empty()) {
      throw Error(ErrorCode::missing_data, "no point can be fitted to: it needs status ok and both measured times",
                  {.file = file, .dataset = {}, .parameter = {}, .value = {}});
    }
    constants = analysis::fit(usable, families);
  }
};

/// With points: the engines that they measure, with the constants fitted to them. Else all, as they are.
std::vector<models::Engine> engines_to_write(const Options& options, const std::optional<Fitted>& fitted) {
  std::set<std::string> names;
  if (fitted) {
    for (const sim::MeasuredPoint* const point : fitted->usable) names.insert(point->engine.name);
  } else {
    for (const std::string& name : models::data_names("engines")) names.insert(name);
  }
  std::vector<models::Engine> engines;
  for (const std::string& name : names) {
    models::Engine engine = models::find_engine(name);
    if (fitted) {
      engine.sources.clear();
      engine = analysis::with_constants(std::move(engine), fitted->constants, fitted->usable, fitted->families);
    }
    for (const std::string& source : options.sources) {
      const auto known = std::find(engine.sources.begin(), engine.sources.end(), source);
      if (known == engine.sources.end()) engine.sources.push_back(source);
    }
    engines.push_back(std::move(engine));
  }
  return engines;
}

void report_profiles(const std::vector<analysis::LayerProfile>& profiles, const std::vector<models::Engine>& engines) {
  if (profiles.empty()) return;
  fmt::print("errors of profiled steps in percent, median | mean | p90 of prompts alone, of decoding alone, of both\n");
  for (const analysis::LayerProfile& profile : profiles) {
    for (const models::Engine& engine : engines) {
      fmt::print("{}, {}, {}:", profile.gpu, profile.model, engine.name);
      const char* separator = " ";
      for (const auto kind : {analysis::StepKind::prefill, analysis::StepKind::decode, analysis::StepKind::both}) {
        const std::vector<double> ratios = analysis::predicted_over_profile(profile, engine, kind);
        fmt::print("{}{}", separator, ratios.empty() ? "none" : analysis::errors_of(ratios));
        separator = ", ";
      }
      fmt::print("\n");
    }
  }
}

int run(const Options& options) {
  if (options.points.empty() && options.layers.empty()) {
    throw Error(ErrorCode::invalid_argument, "nothing to fit to: give POINTS, --layers, or both");
  }
  if (options.points.empty() && !options.report.empty()) {
    throw Error(ErrorCode::invalid_argument, "the tables of a report are about measured points, which are not given",
                {.file = {}, .dataset = {}, .parameter = "--report", .value = options.report});
  }
  std::vector<analysis::LayerProfile> profiles;
  for (const std::string& layers : options.layers) profiles.push_back(analysis::read_layer_profile(layers));
  std::optional<Fitted> fitted;
  if (!options.points.empty()) fitted.emplace(options.points);

  std::vector<models::Engine> engines = engines_to_write(options, fitted);
  analysis::adjust_to_profiles(engines, profiles);
  for (const models::Engine& engine : engines) {
    if (!options.engines.empty()) {
      models::write_engine(std::filesystem::path(options.engines) / (engine.name + ".json"), engine);
    }
  }
  report_profiles(profiles, engines);
  if (!fitted) return 0;
  fmt::print("fitted to {} of {} points\n", fitted->usable.size(), fitted->points.size());
  fmt::print("errors in percent, median | mean | p90 of time per output token, then of time to first token\n");
  fmt::print("of these points: {}\n",
             analysis::errors_of(analysis::seen(fitted->usable, fitted->families, fitted->constants)));
  fmt::print("of each fifth, fitted to the others: {}\n",
             analysis::errors_of(analysis::five_folds(fitted->usable, fitted->families)));
  if (options.report.empty()) return 0;
  const std::string tables = analysis::accuracy_tables(fitted->points, fitted->usable, fitted->families);
  analysis::replace_tables(options.report, tables);
  fmt::print("{}", tables);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits the constants of engines (models/engines/*.json) to measured serving points and times of single layers.",
      "evictsim-fit");
  Options options;
  app.add_option("POINTS", options.points, "measured points, CSV as docs/accuracy.md describes");
  app.add_option("--layers", options.layers,
                 "times of layers on a GPU without points, GPU:MODEL:TENSOR_PARALLEL:PREFIX of PREFIXdense.csv, "
                 "PREFIXattention.csv and PREFIXper_sequence.csv; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--engines", options.engines, "folder whose files get the fitted constants");
  app.add_option("--report", options.report, "document whose tables are replaced: docs/accuracy.md");
  app.add_option("--source", options.sources,
                 "where the measurements come from, for the files of engines; may be repeated")
      ->allow_extra_args(false)
      ->required();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "evictsim-fit: {}\n", error.what());
    return 1;
  }
}
