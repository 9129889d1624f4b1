#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::string sinks = parameters.word("sinks");
  if (parameters.choice("variant") == "library")
    return fmt::format("sinks_and_recent(sinks={},schedule=once())", sinks);
  return fmt::format("recency(schedule=every(),protection=sinks(count={}))", sinks);
}

const Registration registration(
    {.name = "streaming_llm",
     .sentence = "Keeps the first tokens (attention sinks) and the newest entries.",
     .citation = "StreamingLLM, arXiv 2309.17453 (original); kvpress 0.5.5 StreamingLLMPress (library)",
     .parameters = {integer_parameter("sinks", "4", 0, 1e9, "first tokens kept"),
                    choice_parameter("variant", {"original", "library"},
                                     "original: cut at every step; library: once, after the prompt, scores 0 and 1")},
     .make = ExpandPreset(expand),
     .is_policy = true});

const PressRegistration press(
    {.name = "StreamingLLMPress",
     .part = "streaming_llm",
     .arguments = {compression_ratio_argument, {"n_sink", PressValue::integer, "4", "sinks"}},
     .map = [](const PressArguments& given) -> PolicyText {
       return {.name = "streaming_llm", .arguments = {"variant=library", "sinks=" + given["n_sink"]}};
     }});

}  // namespace
}  // namespace evictsim::policies
