#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format(
      "fastkvzip_gate({},allocator=global_pool(normalise=none,scope={},count=removed,floor=0),schedule=once())",
      parameters.text(names_of(fastkvzip_parameters())), parameters.boolean("layerwise") ? "layer" : "model");
}

const Registration registration(
    {.name = "fastkvzip",
     .sentence = "Keeps the entries of all layers and heads that a gate on the attention's input scores highest.",
     .citation = "Fast KVzip, arXiv 2601.17668; kvpress 0.5.5 FastKVzipPress",
     .parameters = joined(fastkvzip_parameters(),
                          {boolean_parameter("layerwise", "false", "a pool per layer instead of one for the model")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

// kvpress downloads the gates of the running model; here the policy says what it lacks.
const PressRegistration press({.name = "FastKVzipPress",
                               .part = "fastkvzip",
                               .arguments = {compression_ratio_argument,
                                             {"layerwise", PressValue::boolean, "False", "layerwise"},
                                             {"n_sink", PressValue::integer, "4", "sinks"},
                                             {"window_size", PressValue::integer, "4096", "window"},
                                             {"window_ratio", PressValue::number, "0.02", "window_ratio"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "fastkvzip",
                                         .arguments = {"layerwise=" + given["layerwise"], "sinks=" + given["n_sink"],
                                                       "window=" + given["window_size"],
                                                       "window_ratio=" + given["window_ratio"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
