#include "analysis/calibration/fit.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "analysis/descent.h"

namespace evictsim::analysis {
namespace {

using models::EngineConstant;
using models::EngineConstants;
using sim::MeasuredPoint;

/// How far the logarithm of a mean constant lies from EngineConstants's own values, one standard deviation. Tight where
/// kernel tables tell it: rates of memory and arithmetic.
constexpr EngineConstants mean_spread = {.step_seconds = 1,
                                         .layer_seconds = 0.7,
                                         .expert_layer_seconds = 1,
                                         .collective_seconds = 0.7,
                                         .collective_doubling_seconds = 0.7,
                                         .sequence_seconds = 1,
                                         .chunk_seconds = 1,
                                         .weight_bandwidth_share = 0.25,
                                         .routing_spread = 0.5,
                                         .expert_parallel_spread = 0.4,
                                         .kv_bandwidth_share = 0.4,
                                         .gemm_flops_share = 0.35,
                                         .gemm_overlap = 0.3,
                                         .attention_flops_share = 0.4,
                                         .link_bandwidth_share = 0.5,
                                         .request_seconds = 1,
                                         .prefill_interference = 0.5,
                                         .first_wave_share = 1,
                                         .wait_factor = 0.7};

struct LevelSpread {
  Level level;
  double spread;
};
/// Standard deviation of an effect on a group whose scale is 1.
constexpr std::array<LevelSpread, 8> levels = {{{Level::engine, 0.5},
                                                {Level::gpu, 0.25},
                                                {Level::model, 0.25},
                                                {Level::precision, 0.2},
                                                {Level::engine_gpu, 0.2},
                                                {Level::engine_model, 0.2},
                                                {Level::version, 0.3},
                                                {Level::campaign, 0.3}}};

double group_scale(const std::string& group) {
  static const std::map<std::string, double> scales = {
      {"host", 0.8},     {"weights", 0.5},      {"routing", 0.5},   {"expert_parallel", 0.5},
      {"kv", 0.8},       {"overlap", 0.2},      {"attention", 0.7}, {"links", 0.7},
      {"requests", 1.5}, {"interference", 0.5}, {"wait", 0.7},      {"first_wave", 1.5}};
  const auto found = scales.find(group);
  return found == scales.end() ? 1 : found->second;
}

/// Relative errors that a measurement may have before it counts less and less: time per output token, to the first one.
constexpr std::array<double, 2> usual_error = {0.05, 0.12};

/// Logarithms of prediction over measurement.
using Residuals = std::array<double, 2>;

EngineConstants constants_from(std::span<const double> logarithms) {
  EngineConstants constants;
  const auto all = models::engine_constants();
  for (std::size_t i = 0; i < all.size(); ++i) constants.*all[i].member = std::exp(logarithms[i]);
  return models::bounded(constants);
}

Residuals residuals_of(const MeasuredPoint& point, std::span<const double> logarithms) {
  const sim::ClosedLoopTimes times = sim::times_of(point, constants_from(logarithms));
  return {std::log(times.per_output_token / point.per_output_token_seconds),
          std::log(times.first_token / point.first_token_seconds)};
}

double loss(const Residuals& residuals) {
  double sum = 0;
  for (std::size_t i = 0; i < 2; ++i) sum += robust_loss(residuals[i], usual_error[i]);
  return sum;
}

/// All unknowns in one vector: the means, then effects level by level, those of campaigns last.
class Unknowns {
 public:
  Unknowns(std::span<const MeasuredPoint* const> points, const std::map<std::string, std::string>& families)
      : constants_(models::engine_constants()),
        groups_(models::engine_constant_groups()),
        group_of_(groups_of_constants()) {
    for (const EngineConstant& constant : constants_) {
      prior_.push_back(std::log(EngineConstants().*constant.member));
      const double spread = mean_spread.*constant.member;
      precision_.push_back(1 / (spread * spread));
    }
    places_.resize(points.size());
    size_ = constants_.size();
    for (const LevelSpread& level : levels) {
      if (level.level == Level::campaign) campaigns_ = size_;
      std::map<std::string, std::size_t>& keys = keys_[level.level];
      for (std::size_t p = 0; p < points.size(); ++p) {
        const std::string key = key_of(level.level, *points[p], families.at(points[p]->model));
        const auto [place, fresh] = keys.emplace(key, size_);
        if (fresh) {
          size_ += groups_.size();
          for (const std::string& group : groups_) {
            const double spread = effect_spread(level.level, group);
            precision_.push_back(1 / (spread * spread));
          }
        }
        places_[p].push_back(place->second);
      }
    }
    prior_.resize(size_, 0.0);
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t means() const { return constants_.size(); }
  [[nodiscard]] std::size_t groups() const { return groups_.size(); }
  [[nodiscard]] std::size_t campaigns() const { return campaigns_; }
  [[nodiscard]] std::size_t group_of(std::size_t constant) const { return group_of_[constant]; }
  [[nodiscard]] const std::vector<std::size_t>& places(std::size_t point) const { return places_[point]; }
  [[nodiscard]] const std::vector<double>& prior() const { return prior_; }
  [[nodiscard]] const std::vector<double>& precision() const { return precision_; }
  [[nodiscard]] const std::map<Level, std::map<std::string, std::size_t>>& keys() const { return keys_; }

  /// Logarithms of a point's constants.
  [[nodiscard]] std::vector<double> of_point(const Eigen::VectorXd& values, std::size_t point) const {
    std::vector<double> logarithms(means());
    for (std::size_t i = 0; i < means(); ++i) {
      logarithms[i] = values[static_cast<Eigen::Index>(i)];
      for (const std::size_t place : places_[point]) {
        logarithms[i] += values[static_cast<Eigen::Index>(place + group_of_[i])];
      }
    }
    return logarithms;
  }

 private:
  std::span<const EngineConstant> constants_;
  std::vector<std::string> groups_;
  std::vector<std::size_t> group_of_;
  std::vector<std::vector<std::size_t>> places_;
  std::map<Level, std::map<std::string, std::size_t>> keys_;
  std::vector<double> prior_, precision_;
  std::size_t size_ = 0, campaigns_ = 0;
};

/// Normal equations of one Gauss-Newton step. A point belongs to one campaign, so the campaigns' part is made of small
/// blocks, which are eliminated first.
class NormalEquations {
 public:
  explicit NormalEquations(const Unknowns& unknowns)
      : shared_(static_cast<Eigen::Index>(unknowns.campaigns())),
        width_(static_cast<Eigen::Index>(unknowns.groups())),
        matrix_(Eigen::MatrixXd::Zero(shared_, shared_)),
        coupling_(Eigen::MatrixXd::Zero(shared_, static_cast<Eigen::Index>(unknowns.size()) - shared_)),
        blocks_(Eigen::MatrixXd::Zero(width_, static_cast<Eigen::Index>(unknowns.size()) - shared_)),
        gradient_(Eigen::VectorXd::Zero(static_cast<Eigen::Index>(unknowns.size()))) {}

  /// A squared residual with its derivatives, those of places at and behind `shared` in one campaign.
  void add(const std::vector<std::pair<Eigen::Index, double>>& derivatives, double residual, double weight) {
    for (const auto& [i, di] : derivatives) {
      gradient_[i] += weight * residual * di;
      for (const auto& [j, dj] : derivatives) {
        const double product = weight * di * dj;
        if (j < shared_) {
          if (i < shared_) matrix_(i, j) += product;
        } else if (i < shared_) {
          coupling_(i, j - shared_) += product;
        } else {
          blocks_((i - shared_) % width_, j - shared_) += product;
        }
      }
    }
  }

  void add_prior(Eigen::Index place, double residual, double precision) {
    gradient_[place] += precision * residual;
    if (place < shared_) {
      matrix_(place, place) += precision;
    } else {
      blocks_((place - shared_) % width_, place - shared_) += precision;
    }
  }

  /// The step, with the diagonal raised by a share of itself.
  [[nodiscard]] Eigen::VectorXd solve(double damping) const {
    Eigen::MatrixXd matrix = matrix_;
    matrix.diagonal() *= 1 + damping;
    Eigen::VectorXd right = -gradient_.head(shared_);
    const Eigen::Index rest = gradient_.size() - shared_;
    std::vector<Eigen::LLT<Eigen::MatrixXd>> factors;
    for (Eigen::Index first = 0; first < rest; first += width_) {
      Eigen::MatrixXd block = blocks_.middleCols(first, width_);
      block.diagonal() *= 1 + damping;
      factors.emplace_back(block);
      const Eigen::MatrixXd coupling = coupling_.middleCols(first, width_);
      // Most shared unknowns have nothing to do with this campaign.
      std::vector<Eigen::Index> touched;
      for (Eigen::Index i = 0; i < shared_; ++i) {
        if ((coupling.row(i).array() != 0).any()) touched.push_back(i);
      }
      const Eigen::MatrixXd part = coupling(touched, Eigen::all);
      const Eigen::MatrixXd solved = factors.back().solve(part.transpose());
      const Eigen::MatrixXd change = part * solved;
      for (std::size_t a = 0; a < touched.size(); ++a) {
        for (std::size_t b = 0; b < touched.size(); ++b) {
          matrix(touched[a], touched[b]) -= change(static_cast<Eigen::Index>(a), static_cast<Eigen::Index>(b));
        }
      }
      right += coupling * factors.back().solve(gradient_.segment(shared_ + first, width_));
    }
    Eigen::VectorXd step(gradient_.size());
    step.head(shared_) = matrix.llt().solve(right);
    for (Eigen::Index first = 0, block = 0; first < rest; first += width_, ++block) {
      step.segment(shared_ + first, width_) = factors[static_cast<std::size_t>(block)].solve(
          -gradient_.segment(shared_ + first, width_) -
          coupling_.middleCols(first, width_).transpose() * step.head(shared_));
    }
    return step;
  }

 private:
  Eigen::Index shared_, width_;
  Eigen::MatrixXd matrix_, coupling_, blocks_;
  Eigen::VectorXd gradient_;
};

double cost(const Unknowns& unknowns, std::span<const MeasuredPoint* const> points, const Eigen::VectorXd& values) {
  double sum = 0;
  for (std::size_t p = 0; p < points.size(); ++p) sum += loss(residuals_of(*points[p], unknowns.of_point(values, p)));
  for (std::size_t i = 0; i < unknowns.size(); ++i) {
    const double away = values[static_cast<Eigen::Index>(i)] - unknowns.prior()[i];
    sum += unknowns.precision()[i] * away * away;
  }
  return sum;
}

NormalEquations equations(const Unknowns& unknowns, std::span<const MeasuredPoint* const> points,
                          const Eigen::VectorXd& values) {
  NormalEquations equations(unknowns);
  std::vector<std::pair<Eigen::Index, double>> derivatives;
  for (std::size_t p = 0; p < points.size(); ++p) {
    std::vector<double> logarithms = unknowns.of_point(values, p);
    const Residuals at = residuals_of(*points[p], logarithms);
    std::vector<Residuals> by_constant(unknowns.means());
    for (std::size_t i = 0; i < unknowns.means(); ++i) {
      logarithms[i] += difference;
      const Residuals moved = residuals_of(*points[p], logarithms);
      logarithms[i] -= difference;
      for (std::size_t r = 0; r < 2; ++r) by_constant[i][r] = (moved[r] - at[r]) / difference;
    }
    for (std::size_t r = 0; r < 2; ++r) {
      std::vector<double> by_group(unknowns.groups());
      derivatives.clear();
      for (std::size_t i = 0; i < unknowns.means(); ++i) {
        by_group[unknowns.group_of(i)] += by_constant[i][r];
        derivatives.emplace_back(static_cast<Eigen::Index>(i), by_constant[i][r]);
      }
      for (const std::size_t place : unknowns.places(p)) {
        for (std::size_t g = 0; g < by_group.size(); ++g) {
          derivatives.emplace_back(static_cast<Eigen::Index>(place + g), by_group[g]);
        }
      }
      equations.add(derivatives, at[r], robust_weight(at[r], usual_error[r]));
    }
  }
  for (std::size_t i = 0; i < unknowns.size(); ++i) {
    const auto place = static_cast<Eigen::Index>(i);
    equations.add_prior(place, values[place] - unknowns.prior()[i], unknowns.precision()[i]);
  }
  return equations;
}

}  // namespace

std::vector<std::size_t> groups_of_constants() {
  const std::vector<std::string> groups = models::engine_constant_groups();
  std::vector<std::size_t> places;
  for (const EngineConstant& constant : models::engine_constants()) {
    const auto group = std::find(groups.begin(), groups.end(), constant.group);
    places.push_back(static_cast<std::size_t>(group - groups.begin()));
  }
  return places;
}

double effect_spread(Level level, const std::string& group) {
  const auto* const found =
      std::find_if(levels.begin(), levels.end(), [&](const LevelSpread& spread) { return spread.level == level; });
  return found->spread * group_scale(group);
}

std::string key_of(Level level, const MeasuredPoint& point, const std::string& family) {
  const std::string& engine = point.engine.name;
  switch (level) {
    case Level::engine:
      return engine;
    case Level::gpu:
      return point.gpu;
    case Level::model:
      return family;
    case Level::precision:
      return point.precision;
    case Level::engine_gpu:
      return engine + '|' + point.gpu;
    case Level::engine_model:
      return engine + '|' + family;
    case Level::version:
      return engine + '|' + point.engine.version;
    case Level::campaign:
      break;
  }
  return fmt::format("{}|{}|{}|{}|{}", engine, point.engine.version, point.gpu, family, point.precision);
}

std::map<std::string, std::string> families_of(std::span<const MeasuredPoint> points) {
  std::set<std::string> names;
  for (const MeasuredPoint& point : points) {
    if (point.status == "ok") names.insert(point.model);
  }
  std::map<std::string, std::string> families;
  std::vector<std::pair<std::string, models::Llm>> firsts;
  for (const std::string& name : names) {
    models::Llm llm = models::find_llm(name);
    const auto alike = std::find_if(firsts.begin(), firsts.end(), [&](const auto& first) {
      return first.second.hidden_size == llm.hidden_size && first.second.vocabulary == llm.vocabulary &&
             first.second.layers == llm.layers;
    });
    families[name] = alike == firsts.end() ? name : alike->first;
    if (alike == firsts.end()) firsts.emplace_back(name, std::move(llm));
  }
  return families;
}

FittedConstants fit(std::span<const MeasuredPoint* const> points, const std::map<std::string, std::string>& families) {
  const Unknowns unknowns(points, families);
  Eigen::VectorXd values(static_cast<Eigen::Index>(unknowns.size()));
  for (std::size_t i = 0; i < unknowns.size(); ++i) values[static_cast<Eigen::Index>(i)] = unknowns.prior()[i];
  descend(
      values, [&](const Eigen::VectorXd& at) { return cost(unknowns, points, at); },
      [&](const Eigen::VectorXd& at) { return equations(unknowns, points, at); });

  FittedConstants fitted;
  fitted.mean.assign(values.data(), values.data() + unknowns.means());
  for (const auto& [level, keys] : unknowns.keys()) {
    for (const auto& [key, place] : keys) {
      fitted.effects[level][key].assign(values.data() + place, values.data() + place + unknowns.groups());
    }
  }
  return fitted;
}

EngineConstants constants_of(const FittedConstants& fitted, const MeasuredPoint& point, const std::string& family) {
  const std::vector<std::size_t> groups = groups_of_constants();
  std::vector<double> logarithms = fitted.mean;
  for (const auto& [level, keys] : fitted.effects) {
    const auto effect = keys.find(key_of(level, point, family));
    if (effect == keys.end()) continue;
    for (std::size_t i = 0; i < groups.size(); ++i) logarithms[i] += effect->second[groups[i]];
  }
  return constants_from(logarithms);
}

}  // namespace evictsim::analysis
