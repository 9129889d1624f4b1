#pragma once
/// \file
/// From the squared errors of layers to the KL of the next token's distribution (docs/damage.md).

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

namespace evictsim::analysis {

/// How the weighted squared errors z_l = w_l m_l become a KL; s is the saturation, f = exp(-c lost_sink_mass).
enum class LawForm : std::uint8_t {
  linear,            ///< f (sum z_l)^g
  saturating_layer,  ///< f (sum s (1 - exp(-z_l / s)))^g: no layer can do more than s
  saturating_total,  ///< s (1 - exp(-f (sum z_l)^g / s)): all together cannot
};
/// "linear", "saturating_layer", "saturating_total".
const char* to_string(LawForm form) noexcept;
/// Throws Error(unknown_name).
LawForm law_form_of(std::string_view name);

struct DamageLaw {
  LawForm form = LawForm::linear;
  std::vector<int> layers;      ///< indices in the model, ascending
  std::vector<double> weights;  ///< [layers] nats per unit of m_l, >= 0; exp(a) is in them
  double exponent = 1;          ///< g
  double saturation = std::numeric_limits<double>::infinity();  ///< nats

  double sink_relief = 0;  ///< c: errors that come from lost sinks count less (or, below 0, more)

  /// The place of a layer in `layers`; layers.size() where it has no weight.
  [[nodiscard]] std::size_t place_of(int layer) const;
  /// `squared_errors` [layers]: m_l; `lost_sink_mass`: as in run.csv.
  [[nodiscard]] double kl(std::span<const double> squared_errors, double lost_sink_mass) const;
};

}  // namespace evictsim::analysis
