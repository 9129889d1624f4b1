#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "simlayerkv",
     .sentence = "Keeps only first and newest tokens in lazy layers, everything in the others; has no budget.",
     .citation = "SimLayerKV, arXiv 2410.13846; kvpress 0.5.5 SimLayerKVPress",
     .parameters = lazy_layer_parameters(),
     .make = ExpandPreset([](const Parameters& parameters) {
       return fmt::format("lazy_layer({},allocator=not_dropped(always=true))", parameters.text());
     }),
     .is_policy = true});

const PressRegistration press({.name = "SimLayerKVPress",
                               .part = "simlayerkv",
                               .arguments = {{"lazy_threshold", PressValue::number, "1.0", "threshold"},
                                             {"n_last", PressValue::integer, "1", "last"},
                                             {"n_recent", PressValue::integer, "1024", "recent"},
                                             {"n_initial", PressValue::integer, "4", "initial"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {
                                     .name = "simlayerkv",
                                     .arguments = {"threshold=" + given["lazy_threshold"], "last=" + given["n_last"],
                                                   "recent=" + given["n_recent"], "initial=" + given["n_initial"]},
                                     .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
