#include <fmt/format.h>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "fastcaote",
                                 .sentence = "CAOTE with the mean of the values in place of the attention output.",
                                 .citation = "FastCAOTE, arXiv 2504.14051",
                                 .parameters = {choice_parameter("gqa", {"mean_a", "max_a", "sum_c"},
                                                                 "how a group's query heads share a score")},
                                 .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
                                   return fmt::format("caote({},{},fast=true)", inner, parameters.text());
                                 }),
                                 .is_policy = true,
                                 .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
