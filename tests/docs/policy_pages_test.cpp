// Has every registered policy a page that says where it comes from, what it needs and what its parameters' defaults
// are?
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "policies/registry.h"

namespace {

using evictsim::policies::ParameterSpec;
using evictsim::policies::Part;

const std::filesystem::path pages = std::filesystem::path(EVICTSIM_SOURCE_DIR) / "docs" / "policies";

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool contains(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

std::vector<const Part*> listed() {
  std::vector<const Part*> parts;
  for (const Part* part : evictsim::policies::registered_parts()) {
    if (part->is_policy) parts.push_back(part);
  }
  return parts;
}

/// The page's line that begins with "- Defaults:"; empty where there is none.
std::string defaults_line(const std::string& page) {
  const std::size_t begin = page.find("\n- Defaults:");
  return begin == std::string::npos ? "" : page.substr(begin + 1, page.find('\n', begin + 1) - begin - 1);
}

/// What the line must hold for the parameter: `a=1,b=2`, or `b` for one without a default.
bool names(const std::string& defaults, const ParameterSpec& parameter) {
  if (parameter.default_value.empty()) return contains(defaults, "`" + parameter.name + "`");
  const std::string entry = parameter.name + "=" + parameter.default_value;
  for (const char* before : {"`", ","}) {
    for (const char* after : {"`", ","}) {
      if (contains(defaults, before + entry + after)) return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("every policy has a page with its source, needs, inferences and a command") {
  const std::vector<const Part*> parts = listed();
  REQUIRE(parts.size() > 70);
  const std::string index = text_of(pages / "README.md");
  for (const Part* part : parts) {
    INFO(part->name);
    const std::string page = text_of(pages / (part->name + ".md"));
    CHECK(page.starts_with("# " + part->name));
    CHECK(contains(index, "(" + part->name + ".md)"));
    CHECK(contains(page, "\n- Source: "));
    CHECK(contains(page, "\n- Needs: "));
    CHECK(contains(page, "\n- Our inference: "));
    CHECK(contains(page, "\nevictsim replay "));
    const std::regex arxiv("arXiv (\\d{4}\\.\\d{5})");
    for (std::sregex_iterator id(part->citation.begin(), part->citation.end(), arxiv), end; id != end; ++id) {
      CHECK(contains(page, (*id)[1]));
    }
  }
}

TEST_CASE("every page lists its policy's parameters with their defaults, and no others") {
  for (const Part* part : listed()) {
    const std::string defaults = defaults_line(text_of(pages / (part->name + ".md")));
    INFO(part->name << ": " << defaults);
    for (const ParameterSpec& parameter : part->parameters) {
      INFO(parameter.name << "=" << parameter.default_value);
      CHECK(names(defaults, parameter));
    }
    const std::regex entry("[`,]([a-z_]+)=");
    for (std::sregex_iterator found(defaults.begin(), defaults.end(), entry), end; found != end; ++found) {
      const std::string name = (*found)[1];
      CHECK(std::any_of(part->parameters.begin(), part->parameters.end(),
                        [&](const ParameterSpec& parameter) { return parameter.name == name; }));
    }
  }
}

TEST_CASE("no page is about something that does not exist") {
  int counted = 0;
  for (const auto& entry : std::filesystem::directory_iterator(pages)) {
    const std::string name = entry.path().stem().string();
    if (name == "README") continue;
    INFO(name);
    CHECK_NOTHROW(evictsim::policies::find_part(name));  // placements such as host have pages too
    ++counted;
  }
  CHECK(counted > 70);
}
