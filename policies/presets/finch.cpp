#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  std::string text = "finch_attention(" + parameters.text(names_of(finch_attention_parameters()));
  if (parameters.integer("chunk") > 0) text += ",allocator=not_dropped()";
  if (parameters.boolean("rerotate")) text += ",placement=rerotate()";
  return text + ")";
}

const Registration registration(
    {.name = "finch",
     .sentence = "Keeps what the question attends to, and the question itself.",
     .citation = "FINCH, TACL 2024 (10.1162/tacl_a_00716); kvpress 0.5.5 FinchPress",
     .parameters = joined(finch_attention_parameters(),
                          {boolean_parameter("rerotate", "true", "turn the keys that stay to consecutive positions")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

// kvpress sets window_size on the object, from a delimiter token; as an argument it says the same.
const PressRegistration press({.name = "FinchPress",
                               .part = "finch",
                               .arguments = {compression_ratio_argument,
                                             {"chunk_length", PressValue::optional_integer, "None", "chunk"},
                                             {"normalize_scores", PressValue::boolean, "True"},
                                             {"rerotate_keys", PressValue::boolean, "True"},
                                             {"window_size", PressValue::optional_integer, "None"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 const std::string window = given["window_size"] == "0" ? "auto" : given["window_size"];
                                 return {.name = "finch",
                                         .arguments = {"window=" + window, "normalize=" + given["normalize_scores"],
                                                       "chunk=" + given["chunk_length"],
                                                       "rerotate=" + given["rerotate_keys"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
