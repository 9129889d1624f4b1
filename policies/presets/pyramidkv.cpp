#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("pyramid(snapkv({}),{})", parameters.text({"variant", "window", "kernel", "pool", "group"}),
                     parameters.text({"variant", "beta", "window"}));
}

const Registration registration(
    {.name = "pyramidkv",
     .sentence = "SnapKV's scores with fewer entries for deeper layers.",
     .citation = "PyramidKV, arXiv 2406.02069; kvpress 0.5.5 PyramidKVPress (library), KVCache-Factory (original)",
     .parameters = {choice_parameter("variant", {"library", "original"}, "of snapkv and of pyramid alike"),
                    integer_parameter("window", "64", 1, 65536, "last tokens whose attention counts"),
                    kernel_parameter(), pool_parameter(), group_parameter(),
                    integer_parameter("beta", "20", 1, 1e9, "steepness: the last layer gets about entries / beta")},
     .make = ExpandPreset(expand),
     .is_policy = true});

const PressRegistration press({.name = "PyramidKVPress",
                               .part = "pyramidkv",
                               .arguments = {compression_ratio_argument,
                                             {"window_size", PressValue::integer, "64", "window"},
                                             {"kernel_size", PressValue::integer, "5", "kernel"},
                                             {"beta", PressValue::integer, "20", "beta"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "pyramidkv",
                                         .arguments = {"variant=library", "window=" + given["window_size"],
                                                       "kernel=" + given["kernel_size"], "pool=avg", "group=mean",
                                                       "beta=" + given["beta"]},
                                         .counts = true};
                               }});

}  // namespace
}  // namespace evictsim::policies
