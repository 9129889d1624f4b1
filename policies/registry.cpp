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

/// Where refused registrations are noted; null: they throw.
std::vector<std::string>*& refusals() {
  static std::vector<std::string>* notes = nullptr;
  return notes;
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
    case PartRole::placement:
      return part.is_placement();
  }
  return false;
}

const char* role_name(PartRole role) {
  constexpr std::array names = {"policy or part", "policy",     "scorer",   "allocator",
                                "schedule",       "protection", "placement"};
  return names[static_cast<std::size_t>(role)];
}

/// Why `part` cannot be registered; empty: it can.
std::string problem_of(const Part& part) {
  if (!is_plain_name(part.name) || part.name == compose_name) {
    return fmt::format("part name '{}': use lower-case letters, digits and _", part.name);
  }
  for (const ParameterSpec& spec : part.parameters) {
    const bool own_choice = part.is_preset() && spec.type == ParameterType::choice;
    if (!is_plain_name(spec.name) || (is_composition_key(spec.name) && !own_choice)) {
      return fmt::format("{}: parameter name '{}' is reserved or not plain", part.name, spec.name);
    }
  }
  const auto found = table().find(part.name);
  if (found == table().end()) return {};
  return fmt::format("the name '{}' is registered twice: as {} \"{}\" and as {} \"{}\"", part.name,
                     found->second.kind(), found->second.sentence, part.kind(), part.sentence);
}

}  // namespace

const char* Part::kind() const {
  constexpr std::array kinds = {"scorer",   "scorer",     "oracle",    "allocator", "allocator",
                                "schedule", "protection", "placement", "preset",    "preset"};
  static_assert(kinds.size() == std::variant_size_v<decltype(make)>);
  return kinds[make.index()];
}

std::vector<std::string> refused_registrations(const std::function<void()>& load) {
  struct Reset {
    ~Reset() { refusals() = nullptr; }
  };
  std::vector<std::string> notes;
  refusals() = &notes;
  const Reset reset;
  load();
  return notes;
}

void refuse_registration(const std::string& why) {
  if (refusals() == nullptr) throw std::logic_error(why);
  refusals()->push_back(why);
}

Registration::Registration(Part part) {
  if (const std::string problem = problem_of(part); !problem.empty()) {
    refuse_registration(problem);
    return;
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
