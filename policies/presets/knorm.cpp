#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "knorm",
     .sentence = "Keeps the keys of smallest Euclidean norm.",
     .citation = "L2 norm, arXiv 2406.11430; kvpress 0.5.5 KnormPress",
     .parameters = {integer_parameter("skip_layers", "0", 0, 1e6,
                                      "first layers left whole, over the budget: 0 as kvpress, 2 as the authors")},
     .make = ExpandPreset([](const Parameters& parameters) -> std::string {
       if (parameters.integer("skip_layers") == 0) return "key_norm()";
       return fmt::format("skip_layers(key_norm(),first={})", parameters.word("skip_layers"));
     }),
     .is_policy = true});

const PressRegistration press({.name = "KnormPress",
                               .part = "knorm",
                               .arguments = {compression_ratio_argument},
                               .map = [](const PressArguments&) -> PolicyText { return {.name = "knorm"}; }});

}  // namespace
}  // namespace evictsim::policies
