#include "policies/information.h"

namespace evictsim::policies {

std::vector<ParameterSpec> information_parameters() {
  return {choice_parameter("top", {"256", "128", "512", "all"},
                           "entropy over so many most probable tokens, not renormalised, or over the vocabulary"),
          integer_parameter("shift", "1", 0, 1,
                            "1: the entropy of the prediction that the token answered; 0: of the one it makes"),
          real_parameter("tau", "1", 0, 1e6, "added to 1 - the cosine with the last layer")};
}

Information::Information(const Parameters& parameters)
    : entropy_(parameters.choice("top") == "all" ? traces::Channel::entropy : traces::Channel::entropy_top),
      column_(parameters.choice("top") == "256"   ? 1
              : parameters.choice("top") == "512" ? 2
                                                  : 0),
      shifted_(parameters.integer("shift") == 1),
      tau_(parameters.real("tau")) {}

std::vector<double> Information::of(const LayerView& layer) const {
  const std::span<const float> entropies = layer.channel(entropy_, column_);
  const std::span<const float> cosines = layer.channel(traces::Channel::cos_final, layer.layer());
  std::vector<double> information;
  for (std::size_t token = 0; token < cosines.size(); ++token) {
    // Nothing predicted the first token; it counts as the second.
    const std::size_t source = shifted_ && token > 0 ? token - 1 : token;
    information.push_back((1.0 - static_cast<double>(cosines[token]) + tau_) * static_cast<double>(entropies[source]));
  }
  return information;
}

Needs Information::needs() const { return {.channels = {entropy_, traces::Channel::cos_final}}; }

std::string information_text(const Parameters& parameters) { return parameters.text({"top", "shift", "tau"}); }

}  // namespace evictsim::policies
