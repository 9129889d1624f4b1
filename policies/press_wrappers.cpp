// Presses around other presses that no single part stands for.
#include <fmt/format.h>

#include <algorithm>

#include "policies/names.h"
#include "policies/press.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

const PressRegistration key_rerotation({.name = "KeyRerotationPress",
                                        .part = "rerotate",
                                        .arguments = {{"press", PressValue::press, nullptr}},
                                        .map = [](const PressArguments& given) -> PolicyText {
                                          PolicyText text = scores_of_press(given, "KeyRerotationPress");
                                          text.arguments.emplace_back("placement=rerotate()");
                                          text.scores = false;
                                          return text;
                                        }});

bool places(const PolicyText& text) {
  return std::any_of(text.arguments.begin(), text.arguments.end(),
                     [](const std::string& argument) { return argument.starts_with("placement="); });
}

/// One press that evicts, and ThinKPress behind it, which changes what stays.
PolicyText compose(const PressArguments& given) {
  if (given.presses.size() == 1) return given.presses.front();
  PolicyText first = given.presses.front();
  const PolicyText& second = given.presses.back();
  if (given.presses.size() != 2 || second.press != "ThinKPress" || first.press == "ThinKPress" || places(first)) {
    throw Error(ErrorCode::unsupported,
                "presses that evict one after the other have no counterpart here, since a policy has one scorer and "
                "one budget; a press that evicts and ThinKPress() behind it have",
                {.parameter = "ComposedPress: presses"});
  }
  first.arguments.push_back(fmt::format("placement=think({})", join(second.arguments, ",")));
  first.scores = false;
  return first;
}

const PressRegistration composed({.name = "ComposedPress",
                                  .part = "think",
                                  .arguments = {{"presses", PressValue::presses, nullptr}},
                                  .map = compose});

const PressRegistration per_layer(
    {.name = "PerLayerCompressionPress",
     .part = "layer_shares",
     .arguments = {{"press", PressValue::press, nullptr}, {"compression_ratios", PressValue::numbers, nullptr}},
     .map = [](const PressArguments& given) -> PolicyText {
       PolicyText text = scores_of_press(given, "PerLayerCompressionPress");
       std::erase(text.arguments, "allocator=uniform()");
       text.arguments.push_back(fmt::format("allocator=layer_shares(removed='{}')", given["compression_ratios"]));
       text.budget.clear();
       text.scores = false;
       return text;
     }});

const PressRegistration prefill_decoding(
    {.name = "PrefillDecodingPress",
     .part = "every",
     .arguments = {{"prefilling_press", PressValue::optional_press, "None"},
                   {"decoding_press", PressValue::optional_press, "None"}},
     .map = [](const PressArguments& given) -> PolicyText {
       if (given.presses_by.size() == 2) {
         throw Error(ErrorCode::unsupported,
                     "two presses, for the prompt and for decoding, have no counterpart here, since a policy has one "
                     "scorer and one budget; one of them alone has",
                     {.parameter = "PrefillDecodingPress"});
       }
       if (given.presses_by.empty()) return {.name = "full", .scores = false};
       if (given.presses_by.contains("decoding_press") &&
           given.press->schedule.find("prompt=false") == std::string::npos) {
         throw Error(ErrorCode::invalid_argument, "must be a DecodingPress",
                     {.parameter = "PrefillDecodingPress: decoding_press", .value = given.press->press});
       }
       PolicyText text = *given.press;
       text.scores = false;
       return text;
     }});

/// The allocator of AdaKVPress around another, from its arguments behind the wrapped policy.
std::string allocator_of(const PolicyText& text, const std::string& layers) {
  if (text.press != "AdaKVPress") return layers;
  const std::vector<std::string> own(text.arguments.begin() + 1, text.arguments.end());
  return fmt::format("adakv({},{})", layers, join(own, ","));
}

const PressRegistration share_while_decoding(
    {.name = "CompressionRatioDecodingPress",
     .part = "every",
     .arguments = {{"base_press", PressValue::press, nullptr},
                   compression_interval_argument,
                   hidden_states_argument,
                   {"target_compression_ratio", PressValue::number, "0.5"}},
     .map = [](const PressArguments& given) -> PolicyText {
       PolicyText text = cut_while_decoding(given, "CompressionRatioDecodingPress");
       text.arguments.push_back(
           "allocator=" + allocator_of(text, fmt::format("seen_share(removed={})", given["target_compression_ratio"])));
       text.budget.clear();
       return text;
     }});

const PressRegistration cam({.name = "CAMPress",
                             .part = "every",
                             .arguments = {{"base_press", PressValue::press, nullptr},
                                           compression_interval_argument,
                                           target_size_argument,
                                           hidden_states_argument,
                                           {"merge_budget", PressValue::integer, "32"}},
                             .map = [](const PressArguments& given) -> PolicyText {
                               const PolicyText base = cut_to_target(given, "CAMPress");
                               PolicyText inner = base;
                               inner.schedule.clear();
                               inner.budget.clear();
                               return {
                                   .name = "mean_over_heads",
                                   .arguments = {inner.text(), "allocator=uniform()",
                                                 fmt::format("placement=cam(merge_budget={})", given["merge_budget"])},
                                   .schedule = base.schedule,
                                   .budget = base.budget,
                                   .scores = false};
                             }});

const PressRegistration lukv({.name = "LUKVPress",
                              .part = "lukv",
                              .arguments = {{"press", PressValue::optional_press, "None"},
                                            compression_ratio_argument,
                                            {"sink", PressValue::integer, "4", "sinks"},
                                            {"window", PressValue::integer, "1", "recent"}},
                              .map = [](const PressArguments& given) -> PolicyText {
                                PolicyText text{.name = "lukv", .scores = false};
                                if (given.press) text.arguments.push_back(scores_of_press(given, "LUKVPress").text());
                                text.arguments.push_back("sinks=" + given["sink"]);
                                text.arguments.push_back("recent=" + given["window"]);
                                return text;
                              }});

}  // namespace
}  // namespace evictsim::policies
