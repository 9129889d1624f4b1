#include "sim/memory/replacement_kind.h"

#include <algorithm>
#include <map>

#include "policies/call.h"
#include "policies/names.h"
#include "sim/memory/replacement/kinds.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

[[noreturn]] void refuse(ErrorCode code, const std::string& what, std::string_view text) {
  throw Error(code, what, {.parameter = policies::policy_option, .value = std::string(text)});
}

const ReplacementKind& find_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const ReplacementKind* kind : replacement_kinds()) {
    if (kind->name == name) return *kind;
    names.push_back(kind->name);
  }
  const std::vector<std::string> near = policies::near_to(name, names, 2);
  refuse(ErrorCode::unknown_name,
         "no such cache policy" + (near.empty() ? "" : "; did you mean " + policies::join(near, " or ") + "?") +
             (near.empty() ? "; there are " : " There are ") + policies::join(names),
         name);
}

}  // namespace

const std::vector<const ReplacementKind*>& replacement_kinds() {
  static const std::vector<const ReplacementKind*> kinds = {
      &replacement::lru(),   &replacement::lfu(),    &replacement::fifo(), &replacement::clock(),
      &replacement::sieve(), &replacement::s3fifo(), &replacement::arc(),  &replacement::two_queue(),
      &replacement::gdsf(),  &replacement::belady()};
  return kinds;
}

Replacement parse_replacement(std::string_view text) {
  const policies::Call call = policies::parse_call(text);
  if (call.quoted || !call.placement.empty()) {
    refuse(ErrorCode::invalid_argument, "expected NAME or NAME(parameter=value,...)", text);
  }
  const ReplacementKind& kind = find_kind(call.name);
  std::map<std::string, std::string> given;
  for (const policies::Argument& argument : call.arguments) {
    if (argument.key.empty() || argument.value.called || !argument.value.placement.empty()) {
      refuse(ErrorCode::invalid_argument, "expected parameters as name=value", text);
    }
    if (!given.emplace(argument.key, argument.value.name).second) {
      refuse(ErrorCode::invalid_argument, "'" + argument.key + "' is given twice", text);
    }
  }
  return {&kind, policies::Parameters(kind.name, kind.parameters, given), std::string(text)};
}

std::vector<Replacement> parse_replacements(std::string_view list) {
  std::vector<Replacement> replacements;
  for (const std::string& text : policies::split_list(list)) {
    if (text == "all") {
      for (const ReplacementKind* kind : replacement_kinds()) replacements.push_back(parse_replacement(kind->name));
    } else {
      replacements.push_back(parse_replacement(text));
    }
  }
  return replacements;
}

}  // namespace evictsim::sim
