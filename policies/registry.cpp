#include "policies/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>
#include <utility>

#include "policies/call.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// Function-local, so that it exists before the first Registration of any file runs.
std::map<std::string, Part, std::less<>>& table() {
  static std::map<std::string, Part, std::less<>> parts;
  return parts;
}

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos;
}

constexpr std::size_t most_suggestions = 3;

bool fits(const Part& part, PartRole role) {
  switch (role) {
    case PartRole::any:
      return true;
    case PartRole::policy:
      return part.is_scorer() || part.is_preset() || part.is_allocator();
    case PartRole::scorer:
      return part.is_scorer();
    case PartRole::allocator:
      return part.is_allocator();
    case PartRole::schedule:
      return part.is_schedule();
    case PartRole::protection:
      return part.is_protection();
  }
  return false;
}

const char* role_name(PartRole role) {
  constexpr std::array names = {"policy or part", "policy", "scorer", "allocator", "schedule", "protection"};
  return names[static_cast<std::size_t>(role)];
}

}  // namespace

const char* Part::kind() const {
  constexpr std::array kinds = {"scorer", "oracle", "allocator", "allocator", "schedule", "protection", "preset"};
  static_assert(kinds.size() == std::variant_size_v<decltype(make)>);
  return kinds[make.index()];
}

Registration::Registration(Part part) {
  if (!is_plain_name(part.name) || part.name == compose_name) {
    throw std::logic_error(fmt::format("part name '{}': use lower-case letters, digits and _", part.name));
  }
  for (const ParameterSpec& spec : part.parameters) {
    if (!is_plain_name(spec.name) || is_composition_key(spec.name)) {
      throw std::logic_error(fmt::format("{}: parameter name '{}' is reserved or not plain", part.name, spec.name));
    }
  }
  const auto found = table().find(part.name);
  if (found != table().end()) {
    throw std::logic_error(fmt::format("the name '{}' is registered twice: as {} \"{}\" and as {} \"{}\"", part.name,
                                       found->second.kind(), found->second.sentence, part.kind(), part.sentence));
  }
  std::string name = part.name;
  table().emplace(std::move(name), std::move(part));
}

std::vector<const Part*> registered_parts() {
  std::vector<const Part*> parts;
  for (const auto& [name, part] : table()) parts.push_back(&part);
  return parts;
}

const Part& find_part(std::string_view name, PartRole role) {
  const auto found = table().find(name);
  if (found != table().end()) return found->second;
  std::vector<std::string> fitting;
  for (const auto& [registered, part] : table()) {
    if (fits(part, role)) fitting.push_back(registered);
  }
  const std::string message = fmt::format("no such {}; nearest: {} (`evictsim policies{}` lists all)", role_name(role),
                                          join(nearest_of(name, fitting, most_suggestions)),
                                          role == PartRole::policy || role == PartRole::any ? "" : " --parts");
  throw Error(ErrorCode::unknown_name, message,
              {.parameter = role == PartRole::any ? "" : policy_option, .value = std::string(name)});
}

}  // namespace evictsim::policies
