#pragma once
/// \file
/// What fits share: a robust loss and damped Gauss-Newton. Internal to analysis/.

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

namespace evictsim::analysis {

/// Numerical derivatives are taken over this distance.
inline constexpr double difference = 1e-4;

/// Cauchy's loss, quadratic for residuals well below `usual`.
inline double robust_loss(double residual, double usual) {
  const double scaled = residual / usual;
  return 4 * std::log1p(scaled * scaled / 4);
}
/// What a residual counts in a Gauss-Newton step.
inline double robust_weight(double residual, double usual) {
  const double scaled = residual / usual;
  return 1 / (1 + scaled * scaled / 4) / (usual * usual);
}

/// When to stop.
struct DescentLimits {
  int most_iterations = 25;
  double enough_gain = 2e-4;  ///< of the cost, relative; two smaller ones end the descent
};

/// Moves `values` down to a minimum of `cost(values)`. `equations(values)` gives the normal equations there, whose
/// `solve(damping)` is the step with their diagonal raised by that share.
template <typename Cost, typename Equations>
void descend(Eigen::VectorXd& values, const Cost& cost, const Equations& equations, const DescentLimits& limits = {}) {
  constexpr int small_gains_to_stop = 2;
  constexpr int most_attempts = 10;
  constexpr double longest_step = 1;

  double current = cost(values);
  double damping = 1e-3;
  int small_gains = 0;
  for (int iteration = 0; iteration < limits.most_iterations && small_gains < small_gains_to_stop; ++iteration) {
    const auto normal = equations(values);
    double reached = current;
    for (int attempt = 0; attempt < most_attempts && reached >= current; ++attempt) {
      Eigen::VectorXd step = normal.solve(damping);
      step *= std::min(1.0, longest_step / step.cwiseAbs().maxCoeff());
      const Eigen::VectorXd moved = values + step;
      reached = cost(moved);
      if (reached < current) {
        values = moved;
        damping = std::max(damping / 5, 1e-6);
      } else {
        damping *= 8;
      }
    }
    small_gains = current - reached < limits.enough_gain * current ? small_gains + 1 : 0;
    if (reached >= current) break;
    current = reached;
  }
}

}  // namespace evictsim::analysis
