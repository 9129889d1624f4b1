#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "chunkkv",
     .sentence = "Keeps whole chunks of tokens by another policy's scores, the same in every head.",
     .citation = "ChunkKV, arXiv 2502.00299; kvpress 0.5.5 ChunkKVPress",
     .parameters = {integer_parameter("chunk", "20", 1, 1e9, "tokens of a chunk")},
     .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
       return fmt::format("whole_chunks({},chunk={},allocator=not_dropped())", inner, parameters.integer("chunk"));
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

const PressRegistration press(
    {.name = "ChunkKVPress",
     .part = "chunkkv",
     .arguments = {{"press", PressValue::press, nullptr}, {"chunk_length", PressValue::integer, "20", "chunk"}},
     .map = [](const PressArguments& given) -> PolicyText {
       return {.name = "chunkkv",
               .arguments = {scores_of_press(given, "ChunkKVPress").text(), "chunk=" + given["chunk_length"]},
               .scores = false};
     }});

}  // namespace
}  // namespace evictsim::policies
