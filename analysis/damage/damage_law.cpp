#include "analysis/damage/damage_law.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "traces/error.h"

namespace evictsim::analysis {
namespace {

constexpr std::array<std::pair<LawForm, const char*>, 3> forms = {{{LawForm::linear, "linear"},
                                                                   {LawForm::saturating_layer, "saturating_layer"},
                                                                   {LawForm::saturating_total, "saturating_total"}}};

double saturated(double value, double saturation) {
  return std::isinf(saturation) ? value : -saturation * std::expm1(-value / saturation);
}

}  // namespace

const char* to_string(LawForm form) noexcept { return forms[static_cast<std::size_t>(form)].second; }

LawForm law_form_of(std::string_view name) {
  for (const auto& [form, known] : forms) {
    if (name == known) return form;
  }
  throw Error(ErrorCode::unknown_name, "must be linear, saturating_layer or saturating_total",
              {.file = {}, .dataset = {}, .parameter = "law", .value = std::string(name)});
}

std::size_t DamageLaw::place_of(int layer) const {
  const auto found = std::lower_bound(layers.begin(), layers.end(), layer);
  return found != layers.end() && *found == layer ? static_cast<std::size_t>(found - layers.begin()) : layers.size();
}

double DamageLaw::kl(std::span<const double> squared_errors, double lost_sink_mass) const {
  double sum = 0;
  for (std::size_t layer = 0; layer < weights.size(); ++layer) {
    const double weighted = weights[layer] * squared_errors[layer];
    sum += form == LawForm::saturating_layer ? saturated(weighted, saturation) : weighted;
  }
  const double relief = sink_relief == 0 ? 1 : std::exp(-sink_relief * lost_sink_mass);
  const double raised = relief * (exponent == 1 ? sum : std::pow(sum, exponent));
  return form == LawForm::saturating_total ? saturated(raised, saturation) : raised;
}

}  // namespace evictsim::analysis
