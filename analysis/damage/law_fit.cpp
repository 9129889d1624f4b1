#include "analysis/damage/law_fit.h"

#include <Eigen/Dense>
#include <cmath>
#include <numbers>
#include <utility>

#include "analysis/descent.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Where a saturation is looked for first, and what the ridge pulls it to: KL of a model that lost its sinks, in nats.
constexpr double usual_log_saturation = std::numbers::ln2;

/// The relief is fitted per so much lost mass, which makes it a number of the size of the others.
constexpr double sink_unit = 0.1;

/// Places of what is fitted, in one vector: theta, b, log g, log s, c sink_unit.
struct Places {
  Eigen::Index layers;
  [[nodiscard]] Eigen::Index level() const { return layers; }
  [[nodiscard]] Eigen::Index exponent() const { return layers + 1; }
  [[nodiscard]] Eigen::Index saturation() const { return layers + 2; }
  [[nodiscard]] Eigen::Index relief() const { return layers + 3; }
  [[nodiscard]] Eigen::Index count() const { return layers + 4; }
};

/// Normal equations of a Gauss-Newton step. Values that are not fitted have an empty row, whose step is 0.
struct NormalEquations {
  Eigen::MatrixXd curvature;
  Eigen::VectorXd gradient;
  [[nodiscard]] Eigen::VectorXd solve(double damping) const {
    Eigen::MatrixXd damped = curvature;
    damped.diagonal() *= 1 + damping;
    for (Eigen::Index value = 0; value < damped.rows(); ++value) {
      if (damped(value, value) <= 0) damped(value, value) = 1;
    }
    return damped.ldlt().solve(-gradient);
  }
};

class LawFit {
 public:
  LawFit(std::span<const DamagePoint* const> points, const FitOptions& options)
      : options_(options),
        places_{std::ssize(points.front()->squared_errors)},
        scaled_(std::ssize(points), places_.layers),
        log_kl_(std::ssize(points)),
        sinks_(Eigen::VectorXd::Zero(std::ssize(points))) {
    for (Eigen::Index point = 0; point < scaled_.rows(); ++point) {
      const DamagePoint& of = *points[static_cast<std::size_t>(point)];
      for (Eigen::Index layer = 0; layer < places_.layers; ++layer) {
        scaled_(point, layer) = of.squared_errors[static_cast<std::size_t>(layer)];
      }
      log_kl_[point] = std::log(of.kl);
      if (options.fit_sinks) sinks_[point] = of.lost_sink_mass / sink_unit;
    }
    means_ = scaled_.colwise().mean();
    if (!(means_.maxCoeff() > 0)) {
      throw Error(ErrorCode::missing_data, "no layer's output moves in any point: nothing can be fitted");
    }
    for (Eigen::Index layer = 0; layer < places_.layers; ++layer) {
      if (means_[layer] > 0) scaled_.col(layer) /= means_[layer];
    }
  }

  DamageLaw run(std::vector<int> layers) {
    Eigen::VectorXd values = Eigen::VectorXd::Zero(places_.count());
    values[places_.saturation()] = usual_log_saturation;
    const Eigen::VectorXd alike = scaled_.rowwise().mean();
    values[places_.level()] = (log_kl_.array() - alike.array().log()).mean();
    descend(
        values, [this](const Eigen::VectorXd& at) { return cost(at); },
        [this](const Eigen::VectorXd& at) { return equations(at); }, {.most_iterations = 300, .enough_gain = 1e-9});

    DamageLaw law{.form = options_.form, .layers = std::move(layers), .weights = {}};
    law.exponent = std::exp(values[places_.exponent()]);
    law.sink_relief = values[places_.relief()] / sink_unit;
    if (options_.form != LawForm::linear) law.saturation = std::exp(values[places_.saturation()]);
    const Eigen::VectorXd weights = weights_of(values);
    for (Eigen::Index layer = 0; layer < places_.layers; ++layer) {
      law.weights.push_back(means_[layer] > 0 ? weights[layer] / means_[layer] : 0.0);
    }
    return law;
  }

 private:
  /// Of the scaled errors: exp(b) softmax(theta).
  [[nodiscard]] Eigen::VectorXd weights_of(const Eigen::VectorXd& values) const {
    return std::exp(values[places_.level()]) * softmax(values);
  }
  [[nodiscard]] Eigen::VectorXd softmax(const Eigen::VectorXd& values) const {
    const Eigen::VectorXd theta = values.head(places_.layers);
    const Eigen::VectorXd exponentials = (theta.array() - theta.maxCoeff()).exp();
    return exponentials / exponentials.sum();
  }

  /// log KL of a point, and its derivatives by all values where `gradient` is wanted.
  [[nodiscard]] double predicted(const Eigen::VectorXd& values, const Eigen::VectorXd& weights,
                                 const Eigen::VectorXd& shares, Eigen::Index point, Eigen::VectorXd* gradient) const {
    const double exponent = std::exp(values[places_.exponent()]);
    const double saturation = std::exp(values[places_.saturation()]);
    const bool by_layer = options_.form == LawForm::saturating_layer;
    double sum = 0;
    double by_log_saturation = 0;                   // d sum / d log s
    Eigen::VectorXd by_log_weight(places_.layers);  // d sum / d log z_l
    for (Eigen::Index layer = 0; layer < places_.layers; ++layer) {
      const double weighted = weights[layer] * scaled_(point, layer);
      const double left = by_layer ? std::exp(-weighted / saturation) : 1.0;
      const double term = by_layer ? -saturation * std::expm1(-weighted / saturation) : weighted;
      sum += term;
      by_log_weight[layer] = weighted * left;
      by_log_saturation += by_layer ? term - weighted * left : 0.0;
    }
    const double raised = std::exp(-values[places_.relief()] * sinks_[point]) * std::pow(sum, exponent);
    const bool in_total = options_.form == LawForm::saturating_total;
    const double kl = in_total ? -saturation * std::expm1(-raised / saturation) : raised;
    if (gradient == nullptr) return std::log(kl);
    // d log KL / d log raised
    const double slope = in_total ? raised * std::exp(-raised / saturation) / kl : 1.0;
    const double by_sum = slope * exponent / sum;
    const double over_layers = by_log_weight.sum();
    gradient->head(places_.layers) = by_sum * (by_log_weight - shares * over_layers);
    (*gradient)[places_.level()] = by_sum * over_layers;
    (*gradient)[places_.exponent()] = options_.fit_exponent ? slope * exponent * std::log(sum) : 0.0;
    (*gradient)[places_.relief()] = -slope * sinks_[point];
    double& of_saturation = (*gradient)[places_.saturation()];
    of_saturation = by_layer ? by_sum * by_log_saturation : (in_total ? 1 - slope : 0.0);
    return std::log(kl);
  }

  [[nodiscard]] double ridge(const Eigen::VectorXd& values) const {
    const double theta = values.head(places_.layers).squaredNorm() / static_cast<double>(places_.layers);
    const double exponent = values[places_.exponent()];
    const double saturation = values[places_.saturation()] - usual_log_saturation;
    const double relief = values[places_.relief()];
    return options_.ridge * (theta + exponent * exponent + saturation * saturation + relief * relief);
  }

  [[nodiscard]] double cost(const Eigen::VectorXd& values) const {
    const Eigen::VectorXd weights = weights_of(values);
    double squares = 0;
    for (Eigen::Index point = 0; point < scaled_.rows(); ++point) {
      const double residual = predicted(values, weights, {}, point, nullptr) - log_kl_[point];
      squares += residual * residual;
    }
    return squares / static_cast<double>(scaled_.rows()) + ridge(values);
  }

  [[nodiscard]] NormalEquations equations(const Eigen::VectorXd& values) const {
    const Eigen::VectorXd weights = weights_of(values);
    const Eigen::VectorXd shares = softmax(values);
    NormalEquations normal{Eigen::MatrixXd::Zero(places_.count(), places_.count()),
                           Eigen::VectorXd::Zero(places_.count())};
    Eigen::VectorXd slope(places_.count());
    const double count = static_cast<double>(scaled_.rows());
    for (Eigen::Index point = 0; point < scaled_.rows(); ++point) {
      const double residual = predicted(values, weights, shares, point, &slope) - log_kl_[point];
      normal.curvature += slope * slope.transpose() / count;
      normal.gradient += slope * (residual / count);
    }
    const double theta_ridge = options_.ridge / static_cast<double>(places_.layers);
    normal.curvature.diagonal().head(places_.layers).array() += theta_ridge;
    normal.gradient.head(places_.layers) += theta_ridge * values.head(places_.layers);
    pull(normal, places_.relief(), values[places_.relief()]);
    if (options_.fit_exponent) pull(normal, places_.exponent(), values[places_.exponent()]);
    if (options_.form != LawForm::linear) {
      pull(normal, places_.saturation(), values[places_.saturation()] - usual_log_saturation);
    }
    return normal;
  }
  void pull(NormalEquations& normal, Eigen::Index place, double distance) const {
    normal.curvature(place, place) += options_.ridge;
    normal.gradient[place] += options_.ridge * distance;
  }

  FitOptions options_;
  Places places_;
  Eigen::MatrixXd scaled_;  ///< [points, layers] m_l over its mean
  Eigen::VectorXd log_kl_;
  Eigen::VectorXd sinks_;     ///< [points] lost mass in sink_units
  Eigen::RowVectorXd means_;  ///< [layers]
};

}  // namespace

DamageLaw fit_law(std::span<const DamagePoint* const> points, std::vector<int> layers, const FitOptions& options) {
  if (points.empty()) throw Error(ErrorCode::missing_data, "a law needs points to be fitted to");
  return LawFit(points, options).run(std::move(layers));
}

}  // namespace evictsim::analysis
