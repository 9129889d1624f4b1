// Does every part file register exactly one part, fully described, and is a second of the same name refused?
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <set>

#include "policies/registry.h"

using namespace evictsim::policies;

TEST_CASE("one part per file in each folder of parts") {
  const std::map<std::string, std::set<std::string>> kinds = {
      {"scorers", {"scorer", "oracle"}}, {"allocators", {"allocator"}}, {"schedules", {"schedule"}},
      {"protections", {"protection"}},   {"placements", {"placement"}}, {"presets", {"preset"}}};
  for (const auto& [folder, folder_kinds] : kinds) {
    std::set<std::string> files, names;
    for (const auto& file : std::filesystem::directory_iterator(EVICTSIM_SOURCE_DIR "/policies/" + folder)) {
      if (file.path().extension() == ".cpp") files.insert(file.path().stem().string());
    }
    for (const Part* part : registered_parts()) {
      if (folder_kinds.contains(part->kind())) names.insert(part->name);
    }
    CHECK(names == files);
  }
}

TEST_CASE("every part is described") {
  for (const Part* part : registered_parts()) {
    INFO(part->name);
    CHECK(part->sentence.ends_with('.'));
    CHECK_FALSE(part->citation.empty());
    CHECK_NOTHROW(Parameters(part->name, part->parameters, {}));
    for (const ParameterSpec& spec : part->parameters) CHECK_FALSE(spec.help.empty());
  }
  for (const char* name : {"full", "random", "streaming_llm", "window", "h2o", "observed_attention", "tova", "snapkv",
                           "knorm", "keydiff", "lagkv", "expected_attention", "adakv", "pyramidkv", "oracle_mass"}) {
    CHECK(find_part(name).is_policy);
  }
}

TEST_CASE("names are unique and parameters keep clear of the grammar") {
  const auto make = MakeSchedule([](const Parameters&) -> std::unique_ptr<Schedule> { return nullptr; });
  CHECK_THROWS_WITH(
      Registration({.name = "knorm", .sentence = "Another.", .citation = "", .parameters = {}, .make = make}),
      Catch::Matchers::Contains("knorm") && Catch::Matchers::Contains("Another."));
  CHECK_THROWS_AS(Registration({.name = "Bad name", .sentence = "", .citation = "", .parameters = {}, .make = make}),
                  std::logic_error);
  CHECK_THROWS_AS(Registration({.name = "clash",
                                .sentence = "",
                                .citation = "",
                                .parameters = {integer_parameter("budget", "1", 0, 2, "")},
                                .make = make}),
                  std::logic_error);
}
