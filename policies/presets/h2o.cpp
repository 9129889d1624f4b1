#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string schedule_of(const Parameters& parameters) {
  const std::string& evict = parameters.choice("evict");
  if (evict == "interval") return fmt::format("every(steps={})", parameters.word("interval"));
  const bool only_prompt = evict == "prompt" || (evict == "auto" && parameters.choice("variant") == "prefill");
  return only_prompt ? "once()" : "every()";
}

std::string expand(const Parameters& parameters) {
  std::string text = "accumulated_attention(";
  for (const std::string& name : names_of(accumulation_parameters())) {
    const bool flexgen = name == "cut" && parameters.choice("variant") == "flexgen";
    text += fmt::format("{}={},", name, flexgen ? "flexgen" : parameters.word(name));
  }
  return text + "schedule=" + schedule_of(parameters) + ")";
}

const Registration registration(
    {.name = "h2o",
     .sentence = "Keeps the heavy hitters, which received most attention so far, and the newest entries.",
     .citation = "H2O, arXiv 2306.14048; FMInference/H2O utils_real_drop (real_drop) and h2o_flexgen (flexgen), "
                 "KVCache-Factory (prefill)",
     .parameters = joined(
         {choice_parameter("variant", {"real_drop", "prefill", "flexgen"},
                           "real_drop: cut after the prompt and after every step; prefill: once; flexgen: every step, "
                           "with cut=flexgen"),
          choice_parameter("evict", {"auto", "step", "interval", "prompt"},
                           "after the prompt and every step or every `interval` steps, or after the prompt only; auto: "
                           "as the variant"),
          integer_parameter("interval", "128", 1, 1e9, "steps between cuts, for evict=interval")},
         accumulation_parameters()),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
