#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "analysis/calibration/fit.h"

namespace evictsim::analysis {
namespace {

/// Effects below this are left out of an engine's file: they change less than measurements repeat.
constexpr double smallest_effect = 0.005;

/// Four significant digits: what is fitted holds no more.
double rounded(double value) { return std::stod(fmt::format("{:.3e}", value)); }

using Effect = std::vector<double>;

Effect effect_of(const FittedConstants& fitted, Level level, const std::string& key) {
  const auto keys = fitted.effects.find(level);
  if (keys == fitted.effects.end()) return {};
  const auto effect = keys->second.find(key);
  return effect == keys->second.end() ? Effect{} : effect->second;
}

void add_to(Effect& sum, const Effect& effect) {
  if (sum.size() < effect.size()) sum.resize(effect.size(), 0.0);
  for (std::size_t i = 0; i < effect.size(); ++i) sum[i] += effect[i];
}

}  // namespace

void add_effect(const Effect& effect, models::EngineAdjustment adjustment,
                std::vector<models::EngineAdjustment>& adjustments) {
  const std::vector<std::string> groups = models::engine_constant_groups();
  for (std::size_t g = 0; g < effect.size(); ++g) {
    if (std::abs(effect[g]) >= smallest_effect) adjustment.factors[groups[g]] = rounded(std::exp(effect[g]));
  }
  if (!adjustment.factors.empty()) adjustments.push_back(std::move(adjustment));
}

models::Engine with_constants(models::Engine engine, const FittedConstants& fitted,
                              std::span<const sim::MeasuredPoint* const> points,
                              const std::map<std::string, std::string>& families) {
  const auto constants = models::engine_constants();
  const std::vector<std::size_t> groups = groups_of_constants();
  Effect own = effect_of(fitted, Level::engine, engine.name);
  own.resize(models::engine_constant_groups().size(), 0.0);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    engine.constants.*constants[i].member = rounded(std::exp(fitted.mean[i] + own[groups[i]]));
  }

  std::map<std::string, std::vector<std::string>> members;
  for (const auto& [model, family] : families) members[family].push_back(model);
  std::set<std::string> gpus, precisions;
  std::map<std::string, const sim::MeasuredPoint*> versions, campaigns;
  for (const sim::MeasuredPoint* const point : points) {
    gpus.insert(point->gpu);
    precisions.insert(point->precision);
    if (point->engine.name != engine.name) continue;
    const std::string& family = families.at(point->model);
    versions.emplace(key_of(Level::version, *point, family), point);
    campaigns.emplace(key_of(Level::campaign, *point, family), point);
  }

  engine.adjustments.clear();
  for (const std::string& gpu : gpus) {
    Effect effect = effect_of(fitted, Level::gpu, gpu);
    add_to(effect, effect_of(fitted, Level::engine_gpu, engine.name + '|' + gpu));
    add_effect(effect, {.version = {}, .gpu = gpu, .models = {}, .precision = {}, .factors = {}}, engine.adjustments);
  }
  for (const auto& [family, models] : members) {
    Effect effect = effect_of(fitted, Level::model, family);
    add_to(effect, effect_of(fitted, Level::engine_model, engine.name + '|' + family));
    add_effect(effect, {.version = {}, .gpu = {}, .models = models, .precision = {}, .factors = {}},
               engine.adjustments);
  }
  for (const std::string& precision : precisions) {
    add_effect(effect_of(fitted, Level::precision, precision),
               {.version = {}, .gpu = {}, .models = {}, .precision = precision, .factors = {}}, engine.adjustments);
  }
  for (const auto& [key, point] : versions) {
    add_effect(effect_of(fitted, Level::version, key),
               {.version = point->engine.version, .gpu = {}, .models = {}, .precision = {}, .factors = {}},
               engine.adjustments);
  }
  for (const auto& [key, point] : campaigns) {
    add_effect(effect_of(fitted, Level::campaign, key),
               {.version = point->engine.version,
                .gpu = point->gpu,
                .models = members.at(families.at(point->model)),
                .precision = point->precision,
                .factors = {}},
               engine.adjustments);
  }
  return engine;
}

}  // namespace evictsim::analysis
