#pragma once
/// \file
/// Fits the weights of a damage law to closed-loop points: Gauss-Newton on log KL (docs/damage.md).

#include <span>
#include <string>
#include <vector>

#include "analysis/damage/damage_law.h"

namespace evictsim::analysis {

/// A policy at a budget on a text, as the fit sees it.
struct DamagePoint {
  std::string fold;                    ///< what is held out together
  std::string text, policy, budget;    ///< names
  double kl = 0;                       ///< > 0, nats
  std::vector<double> squared_errors;  ///< m_l of the law's layers, >= 0, not all 0
  double lost_sink_mass = 0;           ///< 0 in all points: no relief is fitted
};

struct FitOptions {
  LawForm form = LawForm::linear;
  bool fit_exponent = false;  ///< g is 1 otherwise
  bool fit_sinks = true;      ///< DamageLaw::sink_relief is 0 otherwise
  double ridge = 1e-2;        ///< on the mean square of theta
};

/// w = exp(b) softmax(theta) / mean(m_l), c, g and s as the options say, with the least mean squared difference of log
/// KL. Layers that no point moves have weight 0. `layers` are those of the points' squared errors. The same for the
/// same arguments. Throws Error(missing_data) without points, or where no layer moves in any.
DamageLaw fit_law(std::span<const DamagePoint* const> points, std::vector<int> layers, const FitOptions& options);

}  // namespace evictsim::analysis
