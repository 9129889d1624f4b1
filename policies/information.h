#pragma once
/// \file
/// InfoKV's information of a token (arXiv 2606.26875): the entropy of its prediction times how far the layer's hidden
/// state still is from the last layer's.

#include <vector>

#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/parameters.h"

namespace evictsim::policies {

/// The parameters `top`, `shift` and `tau` of the information.
std::vector<ParameterSpec> information_parameters();

/// E = (1 - cos + tau) * H of every token seen.
class Information {
 public:
  explicit Information(const Parameters& parameters);
  /// [seen], finite.
  [[nodiscard]] std::vector<double> of(const LayerView& layer) const;
  [[nodiscard]] Needs needs() const;

 private:
  traces::Channel entropy_;
  int column_;  ///< of entropy_top; 0 for the whole vocabulary
  bool shifted_;
  double tau_;
};

/// The `text` of these parameters among `parameters`.
std::string information_text(const Parameters& parameters);

}  // namespace evictsim::policies
