#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "criticaladakv",
                                 .sentence = "Ada-KV's split over heads, filled in CriticalKV's two stages.",
                                 .citation = "CriticalKV, arXiv 2502.03805; kvpress 0.5.5 CriticalAdaKVPress",
                                 .parameters = critical_head_parameters(),
                                 .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
                                   return fmt::format("critical_heads({},{},allocator=not_dropped())", inner,
                                                      parameters.text());
                                 }),
                                 .is_policy = true,
                                 .default_policy = "snapkv()"});

const PressRegistration press({.name = "CriticalAdaKVPress",
                               .part = "criticaladakv",
                               .arguments = {{"press", PressValue::press, nullptr},
                                             {"alpha_safeguard", PressValue::number, "0.20", "alpha"},
                                             {"epsilon", PressValue::number, "1e-4", "epsilon"},
                                             {"first_stage_ratio", PressValue::number, "0.5", "first_stage"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "criticaladakv",
                                         .arguments = {scores_of_press(given, "CriticalAdaKVPress").text(),
                                                       "alpha=" + given["alpha_safeguard"],
                                                       "first_stage=" + given["first_stage_ratio"],
                                                       "epsilon=" + given["epsilon"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
