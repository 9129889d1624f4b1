#include "sim/cli/plan_workloads.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "sim/cli/option_lists.h"
#include "traces/error.h"

namespace evictsim {
namespace {

[[noreturn]] void refuse(const char* option, const char* what) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = option});
}

/// Every combination of what options say about made-up workloads.
std::vector<sim::GeneratedWorkload> generated_defaults(const PlanArguments& arguments) {
  if (!arguments.lengths.empty() && !(arguments.prompts.empty() && arguments.outputs.empty())) {
    refuse("--lengths", "gives prompts and outputs; leave --prompt-tokens and --output-tokens out");
  }
  std::vector<sim::GeneratedWorkload> defaults(1);
  const auto each = [&](const std::vector<std::string>& lists, const char* option, const auto& set) {
    const std::vector<std::string> values = list_elements(lists, option);
    if (values.empty()) return;
    std::vector<sim::GeneratedWorkload> product;
    for (const sim::GeneratedWorkload& known : defaults) {
      for (const std::string& value : values) set(product.emplace_back(known), value);
    }
    defaults = std::move(product);
  };
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  each(arguments.prompts, "--prompt-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.prompt = sim::TokenCount::parse(text, "--prompt-tokens");
  });
  each(arguments.outputs, "--output-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.output = sim::TokenCount::parse(text, "--output-tokens");
  });
  each(arguments.lengths, "--lengths", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.lengths = sim::read_measured_lengths(text);
  });
  each(arguments.prefix_groups, "--prefix-groups", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.prefix_groups = number_of<std::int64_t>(text, "--prefix-groups", 0, most);
  });
  each(arguments.prefix_tokens, "--prefix-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.prefix_tokens = number_of<std::int64_t>(text, "--prefix-tokens", 0, most);
  });
  each(arguments.turns, "--turns", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.turns = number_of<std::int64_t>(text, "--turns", 1, most);
  });
  each(arguments.think_times, "--think-time", [](sim::GeneratedWorkload& workload, const std::string& text) {
    workload.think_seconds = number_of<double>(text, "--think-time", 0, 1e9);
  });
  return defaults;
}

}  // namespace

std::vector<NamedWorkload> plan_workloads(const PlanArguments& arguments, const std::vector<std::string>& texts) {
  const std::vector<sim::GeneratedWorkload> defaults = generated_defaults(arguments);
  std::vector<NamedWorkload> workloads;
  bool any_made_up = false;
  for (const std::string& text : texts) {
    for (const sim::GeneratedWorkload& one : defaults) {
      auto workload = std::make_shared<const sim::ServingWorkload>(sim::ServingWorkload::find(text, one));
      const bool made_up = workload->random();
      any_made_up = any_made_up || made_up;
      workloads.push_back({text, std::move(workload)});
      if (!made_up) break;
    }
  }
  for (const auto& [option, lists] :
       {std::pair{"--prompt-tokens", &arguments.prompts}, std::pair{"--output-tokens", &arguments.outputs},
        std::pair{"--lengths", &arguments.lengths}, std::pair{"--prefix-groups", &arguments.prefix_groups},
        std::pair{"--prefix-tokens", &arguments.prefix_tokens}, std::pair{"--turns", &arguments.turns},
        std::pair{"--think-time", &arguments.think_times}}) {
    if (!any_made_up && !lists->empty()) refuse(option, "applies to made-up workloads only, not to a trace");
  }
  return workloads;
}

}  // namespace evictsim
