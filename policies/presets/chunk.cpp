#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "chunk",
                                 .sentence = "Cuts every chunk of tokens by itself with another policy's scores.",
                                 .citation = "kvpress 0.5.5 ChunkPress, after FINCH, TACL 2024 (10.1162/tacl_a_00716)",
                                 .parameters = {integer_parameter("length", "1024", 1, 1e9, "tokens of a chunk")},
                                 .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
                                   return fmt::format("chunkwise({},length={},allocator=not_dropped())", inner,
                                                      parameters.integer("length"));
                                 }),
                                 .is_policy = true,
                                 .default_policy = "knorm()"});

const PressRegistration press(
    {.name = "ChunkPress",
     .part = "chunk",
     .arguments = {{"press", PressValue::press, nullptr}, {"chunk_length", PressValue::integer, "1024", "length"}},
     .map = [](const PressArguments& given) -> PolicyText {
       return {.name = "chunk",
               .arguments = {scores_of_press(given, "ChunkPress").text(), "length=" + given["chunk_length"]},
               .scores = false};
     }});

}  // namespace
}  // namespace evictsim::policies
