#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::string floor = parameters.word("floor");
  const std::string allocator = parameters.boolean("structured")
                                    ? fmt::format("composite_ranks(head={},floor={})", parameters.choice("head"), floor)
                                    : fmt::format("global_pool(scope=model,count=kept,floor={})", floor);
  return fmt::format("second_pass_attention({},allocator={})", parameters.text(names_of(second_pass_parameters())),
                     allocator);
}

const Registration registration(
    {.name = "kvcompose",
     .sentence = "Keeps what a second reading of the context attends to, with budgets per layer from composite tokens.",
     .citation = "KVCompose, arXiv 2509.05165; kvpress 0.5.5 KVComposePress",
     .parameters = joined(second_pass_parameters(),
                          {boolean_parameter("structured", "true",
                                             "heads of a layer keep equally many; false: heads compete"),
                           choice_parameter("head", {"mean", "max"}, "how the entries of one rank become one score"),
                           integer_parameter("floor", "0", 0, 1e9, "entries that every layer (or head) is sure of")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

const PressRegistration press({.name = "KVComposePress",
                               .part = "kvcompose",
                               .arguments = {{"structured", PressValue::boolean, "True", "structured"},
                                             compression_ratio_argument,
                                             {"agg_task", PressValue::text, "max", "task"},
                                             {"agg_group", PressValue::text, "mean", "group"},
                                             {"agg_head", PressValue::text, "mean", "head"},
                                             {"add_v_norm", PressValue::boolean, "False", "value_norm"},
                                             {"add_mean_across_heads", PressValue::boolean, "True", "add_mean"},
                                             {"keep_token_lower_bound", PressValue::integer, "0", "floor"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "kvcompose",
                                         .arguments = {"structured=" + given["structured"], "task=" + given["agg_task"],
                                                       "group=" + given["agg_group"], "head=" + given["agg_head"],
                                                       "value_norm=" + given["add_v_norm"],
                                                       "add_mean=" + given["add_mean_across_heads"],
                                                       "floor=" + given["keep_token_lower_bound"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
