#include "policies/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "policies/call.h"
#include "policies/composition.h"
#include "policies/formula/parser.h"
#include "policies/kvpress.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr std::string_view everything = "all";

std::string trimmed(std::string_view text) {
  constexpr const char* blanks = " \t\r\n";
  const auto first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(blanks) - first + 1));
}

}  // namespace

Policy parse_policy(std::string_view text) {
  std::string name = trimmed(text);
  std::string composition = name;
  if (name.starts_with(press_prefix)) {
    composition = press_to_policy(name.substr(press_prefix.size()));
  } else if (name.starts_with(formula::prefix)) {
    const std::string expression = trimmed(name.substr(formula::prefix.size()));
    if (expression.empty()) {
      throw Error(ErrorCode::invalid_argument, "a formula must follow, as in score: -norm(k)",
                  {.parameter = policy_option, .value = name});
    }
    composition = fmt::format("formula(expression={})", quote_word(expression));
  }
  return make_policy(read_composition(composition), std::move(name));
}

std::vector<Policy> parse_policies(std::string_view list) {
  std::vector<Policy> policies;
  const auto add = [&](const std::string& text) {
    const bool listed =
        std::any_of(policies.begin(), policies.end(), [&](const Policy& one) { return one.name == text; });
    if (!listed) policies.push_back(parse_policy(text));
  };
  if (trimmed(list).empty()) {
    throw Error(ErrorCode::invalid_argument, "the list is empty; name policies (snapkv,tova) or all",
                {.parameter = policy_option});
  }
  for (const std::string& item : split_list(list)) {
    if (item != everything) {
      if (item == "ALL" || item == "All") {
        throw Error(ErrorCode::unknown_name, "no such policy; nearest: all",
                    {.parameter = policy_option, .value = item});
      }
      add(item);
      continue;
    }
    for (const Part* part : registered_parts()) {
      if (part->is_policy) add(part->name);
    }
  }
  return policies;
}

}  // namespace evictsim::policies
