#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format(
      "compose(scorer=recency(),allocator=streaming_heads({}),schedule=every(),protection=sinks(count={}))",
      parameters.text(), parameters.integer("sinks"));
}

const Registration registration(
    {.name = "duoattention",
     .sentence = "Keeps everything in some heads, and first and newest entries in the others, at any budget.",
     .citation = "DuoAttention, arXiv 2410.10819; kvpress 0.5.5 DuoAttentionPress",
     .parameters = streaming_head_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

const PressRegistration press({.name = "DuoAttentionPress",
                               .part = "duoattention",
                               .arguments = {{"head_compression_ratio", PressValue::number, "0.0", "sparsity"},
                                             {"on_the_fly_scoring", PressValue::boolean, "False"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 const bool measured = given["on_the_fly_scoring"] == "true";
                                 return {.name = "duoattention",
                                         .arguments = {"sparsity=" + given["head_compression_ratio"],
                                                       measured ? "pattern=repeated" : "pattern=given"},
                                         .schedule = "once()",
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
