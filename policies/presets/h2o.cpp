#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("accumulated_attention({},schedule={})",
                     parameters.text({"recent", "recent_share", "group", "normalise"}),
                     parameters.choice("variant") == "prefill" ? "once()" : "every()");
}

ParameterSpec recent_parameter() {
  ParameterSpec spec = integer_parameter("recent", "auto", 0, 1e9, "newest tokens kept; auto: recent_share");
  spec.automatic = true;
  return spec;
}

const Registration registration(
    {.name = "h2o",
     .sentence = "Keeps the heavy hitters, which received most attention so far, and the newest entries.",
     .citation = "H2O, arXiv 2306.14048; FMInference/H2O utils_real_drop (real_drop), KVCache-Factory (prefill)",
     .parameters = {choice_parameter("variant", {"real_drop", "prefill"},
                                     "real_drop: cut after the prompt and after every step; prefill: once"),
                    recent_parameter(),
                    real_parameter("recent_share", "0.5", 0, 1,
                                   "share of the budget for the newest, if recent is auto"),
                    group_parameter(),
                    choice_parameter("normalise", {"none", "lifetime"},
                                     "divide by the number of tokens that could attend, or not")},
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
