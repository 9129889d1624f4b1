#pragma once
/// \file
/// Fits the constants of engines to measured serving points: Gauss-Newton on logarithms, a robust loss, and effects of
/// engine, version, GPU, model and precision on groups of constants, each pulled towards zero. Method:
/// docs/accuracy.md.

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/engine.h"
#include "sim/serving/measured_points.h"

namespace evictsim::analysis {

/// What is common to some of the points; each value of it has an effect on every group of constants.
enum class Level : std::uint8_t { engine, gpu, model, precision, engine_gpu, engine_model, version, campaign };

/// Logarithms.
struct FittedConstants {
  std::vector<double> mean;  ///< by engine_constants()
  /// By level, then by key_of(); by engine_constant_groups().
  std::map<Level, std::map<std::string, std::vector<double>>> effects;
};

/// For each of engine_constants(), the place of its group in engine_constant_groups().
std::vector<std::size_t> groups_of_constants();

/// Standard deviation of an effect on a group of constants before anything is measured.
double effect_spread(Level level, const std::string& group);

/// The value of a level that a point has. Models of equal sizes are one: `family` tells them apart from others.
std::string key_of(Level level, const sim::MeasuredPoint& point, const std::string& family);

/// Names of models with equal sizes, by their steps' work: each model's family, the first of its names.
std::map<std::string, std::string> families_of(std::span<const sim::MeasuredPoint> points);

/// Of points that are "ok" and have both measured values. A pure function of its arguments.
FittedConstants fit(std::span<const sim::MeasuredPoint* const> points,
                    const std::map<std::string, std::string>& families);

/// The constants for a point, with every effect that is known for it.
models::EngineConstants constants_of(const FittedConstants& fitted, const sim::MeasuredPoint& point,
                                     const std::string& family);

/// `engine` with the fitted constants in place of its own; GPUs and families as names that adjustments hold for.
models::Engine with_constants(models::Engine engine, const FittedConstants& fitted,
                              std::span<const sim::MeasuredPoint* const> points,
                              const std::map<std::string, std::string>& families);

/// Adds `adjustment` with an effect's factors, but for those that change less than measurements repeat; nothing if none
/// is left.
void add_effect(const std::vector<double>& effect, models::EngineAdjustment adjustment,
                std::vector<models::EngineAdjustment>& adjustments);

}  // namespace evictsim::analysis
