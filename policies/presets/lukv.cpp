#include <fmt/format.h>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "lukv",
     .sentence = "Gives every head the budget that a table of future utility, profiled offline, says.",
     .citation = "LU-KV, arXiv 2602.08585; kvpress 0.5.5 LUKVPress",
     .parameters = {text_parameter(
                        "table",
                        "HDF5 file, or file:/group, with prune_ratios [99, layers, H_kv], or [99, H_kv] per layer"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens protected"),
                    integer_parameter("recent", "1", 0, 1e9, "last tokens protected")},
     .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
       return fmt::format("prune_ratios({},{},protection=sinks(count={}),protection=recent(count={}))", inner,
                          parameters.text({"table"}), parameters.integer("sinks"), parameters.integer("recent"));
     }),
     .is_policy = true,
     .default_policy = "expected_attention(epsilon=0.02)"});

}  // namespace
}  // namespace evictsim::policies
