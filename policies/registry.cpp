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

const Part& find_part(std::string_view name) {
  const auto found = table().find(name);
  if (found != table().end()) return found->second;
  throw Error(
      ErrorCode::unknown_name,
      fmt::format("no such policy or part; nearest: {} (`evictsim policies` lists all)", join(nearest_names(name, 3))),
      {.parameter = "policy", .value = std::string(name)});
}

std::vector<std::string> nearest_names(std::string_view name, std::size_t count) {
  std::vector<std::string> known;
  for (const auto& [registered, part] : table()) known.push_back(registered);
  return nearest_of(name, known, count);
}

}  // namespace evictsim::policies
