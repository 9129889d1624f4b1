#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "entropy_chunkkv",
     .sentence = "ChunkKV that keeps only the best tokens of important chunks whose score sits in few tokens.",
     .citation = "kvpress 0.5.5 EntropyGatedChunkKVPress, after ChunkKV, arXiv 2502.00299",
     .parameters = gated_chunk_parameters(),
     .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
       return fmt::format("gated_chunks({},{},allocator=not_dropped())", inner, parameters.text());
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

const PressRegistration press({.name = "EntropyGatedChunkKVPress",
                               .part = "entropy_chunkkv",
                               .arguments = {{"press", PressValue::press, nullptr},
                                             {"chunk_length", PressValue::integer, "10", "chunk"},
                                             {"low_entropy_chunk_length", PressValue::integer, "4", "spiky"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "entropy_chunkkv",
                                         .arguments = {scores_of_press(given, "EntropyGatedChunkKVPress").text(),
                                                       "chunk=" + given["chunk_length"],
                                                       "spiky=" + given["low_entropy_chunk_length"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
