#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "kvzip",
     .sentence = "Keeps what the model attends to while it repeats the context, all layers and heads competing.",
     .citation = "KVzip, arXiv 2505.23416; kvpress 0.5.5 KVzipPress",
     .parameters = joined(repeat_attention_parameters(),
                          {boolean_parameter("layerwise", "false", "the heads of each layer compete by themselves")}),
     .make = ExpandPreset([](const Parameters& parameters) {
       return fmt::format("repeat_attention({},allocator=global_pool(scope={},count=removed))",
                          parameters.text(names_of(repeat_attention_parameters())),
                          parameters.boolean("layerwise") ? "layer" : "model");
     }),
     .is_policy = true});

// The chunks of the second pass are those of the trace, whatever chunk_size says.
const PressRegistration press({.name = "KVzipPress",
                               .part = "kvzip",
                               .arguments = {compression_ratio_argument,
                                             {"layerwise", PressValue::boolean, "False", "layerwise"},
                                             {"n_sink", PressValue::integer, "4", "sinks"},
                                             {"kvzip_plus_normalization", PressValue::boolean, "False", "plus"},
                                             {"chunk_size", PressValue::integer, "2048"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "kvzip",
                                         .arguments = {"plus=" + given["kvzip_plus_normalization"],
                                                       "layerwise=" + given["layerwise"], "sinks=" + given["n_sink"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
