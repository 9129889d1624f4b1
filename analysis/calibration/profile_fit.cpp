#include <fmt/format.h>

#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "analysis/calibration/fit.h"
#include "analysis/calibration/layer_profile.h"
#include "analysis/descent.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

using models::Engine;
using models::EngineConstants;

/// Relative error that a step put together from kernels may have before it counts less and less.
constexpr double usual_error = 0.05;
/// What the steps of one kind in one profile count together. Tables hold hundreds of times more of one kind than of
/// another, all from a few kernels, so their number says nothing about how much they tell.
constexpr double steps_per_kind = 100;

models::EngineAdjustment adjustment_for(const std::string& gpu) {
  return {.version = {}, .gpu = gpu, .models = {}, .precision = {}, .factors = {}};
}

models::StepTime step_time(const LayerProfile& profile, const Engine& engine) {
  EngineConstants constants = models::adjusted_constants(engine, profile.gpu, profile.model, profile.precision);
  constants.step_seconds = 0;  // host work, which kernels do not show
  return {profile.shape, constants};
}

/// A profile of the GPU whose constants are sought, with what each of its steps counts.
struct Observed {
  const LayerProfile* profile;
  std::vector<double> weights;

  explicit Observed(const LayerProfile& of) : profile(&of) {
    std::map<StepKind, double> numbers;
    for (const ProfiledStep& step : of.steps) numbers[step.kind()] += 1;
    for (const ProfiledStep& step : of.steps) weights.push_back(steps_per_kind / numbers[step.kind()]);
  }
};

/// Dense normal equations of a few unknowns.
struct FewEquations {
  Eigen::MatrixXd matrix;
  Eigen::VectorXd gradient;

  [[nodiscard]] Eigen::VectorXd solve(double damping) const {
    Eigen::MatrixXd raised = matrix;
    raised.diagonal() *= 1 + damping;
    return raised.llt().solve(-gradient);
  }
};

/// Logarithms of factors on groups of an engine's constants, for one GPU.
class ProfileFit {
 public:
  ProfileFit(Engine engine, std::string gpu, const std::vector<Observed>& observed)
      : engine_(std::move(engine)),
        gpu_(std::move(gpu)),
        observed_(&observed),
        groups_(models::engine_constant_groups()) {
    for (const std::string& group : groups_) {
      // Of the GPU in all engines, and in this one.
      const double spread = std::hypot(effect_spread(Level::gpu, group), effect_spread(Level::engine_gpu, group));
      precision_.push_back(1 / (spread * spread));
    }
  }

  [[nodiscard]] std::vector<double> effect() const {
    Eigen::VectorXd values = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(groups_.size()));
    descend(
        values, [&](const Eigen::VectorXd& at) { return cost(at); },
        [&](const Eigen::VectorXd& at) { return equations(at); });
    return {values.data(), values.data() + values.size()};
  }

 private:
  [[nodiscard]] models::StepTime time(const LayerProfile& profile, const Eigen::VectorXd& values) const {
    Engine engine = engine_;
    models::EngineAdjustment adjustment = adjustment_for(gpu_);
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      adjustment.factors[groups_[g]] = std::exp(values[static_cast<Eigen::Index>(g)]);
    }
    engine.adjustments.push_back(std::move(adjustment));
    return step_time(profile, engine);
  }

  [[nodiscard]] double cost(const Eigen::VectorXd& values) const {
    double sum = 0;
    for (const Observed& observed : *observed_) {
      const models::StepTime predicted = time(*observed.profile, values);
      for (std::size_t i = 0; i < observed.weights.size(); ++i) {
        const ProfiledStep& step = observed.profile->steps[i];
        sum += observed.weights[i] * robust_loss(std::log(predicted.seconds(step.work) / step.seconds), usual_error);
      }
    }
    for (Eigen::Index g = 0; g < values.size(); ++g) {
      sum += precision_[static_cast<std::size_t>(g)] * values[g] * values[g];
    }
    return sum;
  }

  [[nodiscard]] FewEquations equations(const Eigen::VectorXd& values) const {
    const Eigen::Index size = values.size();
    FewEquations normal{Eigen::MatrixXd::Zero(size, size), Eigen::VectorXd::Zero(size)};
    for (const Observed& observed : *observed_) {
      const models::StepTime here = time(*observed.profile, values);
      std::vector<models::StepTime> moved;
      for (Eigen::Index g = 0; g < size; ++g) {
        Eigen::VectorXd there = values;
        there[g] += difference;
        moved.push_back(time(*observed.profile, there));
      }
      Eigen::VectorXd derivatives(size);
      for (std::size_t i = 0; i < observed.weights.size(); ++i) {
        const ProfiledStep& step = observed.profile->steps[i];
        const double residual = std::log(here.seconds(step.work) / step.seconds);
        for (Eigen::Index g = 0; g < size; ++g) {
          const double other = std::log(moved[static_cast<std::size_t>(g)].seconds(step.work) / step.seconds);
          derivatives[g] = (other - residual) / difference;
        }
        const double weight = observed.weights[i] * robust_weight(residual, usual_error);
        normal.matrix += weight * derivatives * derivatives.transpose();
        normal.gradient += weight * residual * derivatives;
      }
    }
    for (Eigen::Index g = 0; g < size; ++g) {
      const double precision = precision_[static_cast<std::size_t>(g)];
      normal.matrix(g, g) += precision;
      normal.gradient[g] += precision * values[g];
    }
    return normal;
  }

  Engine engine_;
  std::string gpu_;
  const std::vector<Observed>* observed_;
  std::vector<std::string> groups_;
  std::vector<double> precision_;
};

bool measured(const Engine& engine, const std::string& gpu) {
  return std::any_of(
      engine.adjustments.begin(), engine.adjustments.end(),
      [&](const models::EngineAdjustment& adjustment) { return adjustment.gpu == gpu && !adjustment.version.empty(); });
}

}  // namespace

std::vector<double> predicted_over_profile(const LayerProfile& profile, const Engine& engine, StepKind kind) {
  const models::StepTime time = step_time(profile, engine);
  std::vector<double> ratios;
  for (const ProfiledStep& step : profile.steps) {
    if (step.kind() == kind) ratios.push_back(time.seconds(step.work) / step.seconds);
  }
  return ratios;
}

void adjust_to_profiles(std::vector<Engine>& engines, std::span<const LayerProfile> profiles) {
  std::map<std::string, std::vector<Observed>> by_gpu;
  for (const LayerProfile& profile : profiles) by_gpu[profile.gpu].emplace_back(profile);
  for (const auto& [gpu, observed] : by_gpu) {
    for (const Engine& engine : engines) {
      if (!measured(engine, gpu)) continue;
      throw Error(
          ErrorCode::invalid_argument,
          fmt::format("{} has measured points of {}, which tell more than profiles of layers", engine.name, gpu),
          {.parameter = "--layers", .value = gpu});
    }
    for (Engine& engine : engines) {
      std::erase_if(engine.adjustments, [&](const models::EngineAdjustment& old) { return old.gpu == gpu; });
      add_effect(ProfileFit(engine, gpu, observed).effect(), adjustment_for(gpu), engine.adjustments);
    }
  }
}

}  // namespace evictsim::analysis
