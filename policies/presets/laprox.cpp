#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string allocator_of(const std::string& alloc) {
  if (alloc == "global_norm") return "global_pool(normalise=layer_sum,scope=model)";
  if (alloc == "global_raw") return "global_pool(normalise=none,scope=model)";
  if (alloc == "layer") return "global_pool(normalise=none,scope=layer)";
  return "uniform()";
}

std::string expand(const Parameters& parameters) {
  return fmt::format("compose(scorer=laprox_score({}),allocator={},schedule=once())",
                     parameters.text(names_of(laprox_score_parameters())), allocator_of(parameters.choice("alloc")));
}

const Registration registration(
    {.name = "laprox",
     .sentence =
         "Keeps the entries of all layers and heads that carry most of their layer's output to the last tokens.",
     .citation = "LaProx, arXiv 2605.07234",
     .parameters =
         joined(laprox_score_parameters(),
                {choice_parameter("alloc", {"global_norm", "global_raw", "layer", "head"},
                                  "one pool for the model, each layer's scores divided by their sum or not; one "
                                  "pool per layer; the same count for every head")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
