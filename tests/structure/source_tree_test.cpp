// Does the source tree keep its own rules: dependencies one way, no printing libraries, every file built?
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/structure/rules.h"

namespace fs = std::filesystem;
using evictsim::tests::check_listed;
using evictsim::tests::check_source;
using evictsim::tests::SourceFile;
using evictsim::tests::without_comments;

namespace {

struct Tree {
  std::vector<SourceFile> sources;  ///< .h, .cpp, .cu
  std::vector<SourceFile> lists;    ///< CMakeLists.txt
};

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

const Tree& tree() {
  static const Tree result = [] {
    Tree found;
    const fs::path root = EVICTSIM_SOURCE_DIR;
    for (const char* folder : {"traces", "models", "policies", "sim", "analysis", "tests"}) {
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        if (!entry.is_regular_file()) continue;
        const std::string path = entry.path().lexically_relative(root).generic_string();
        const std::string extension = entry.path().extension().string();
        if (path.starts_with("traces/capture/dlpack/")) continue;  // not ours
        if (extension == ".h" || extension == ".cpp" || extension == ".cu") {
          found.sources.push_back({path, read(entry.path())});
        } else if (entry.path().filename() == "CMakeLists.txt") {
          found.lists.push_back({path, read(entry.path())});
        }
      }
    }
    return found;
  }();
  return result;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::size_t breaches(const std::string& path, const std::string& text) { return check_source({path, text}).size(); }

}  // namespace

TEST_CASE("every source file keeps the rules") {
  REQUIRE(tree().sources.size() > 50);
  std::vector<std::string> found;
  for (const SourceFile& file : tree().sources) {
    const auto more = check_source(file);
    found.insert(found.end(), more.begin(), more.end());
  }
  INFO(joined(found));
  CHECK(found.empty());
}

TEST_CASE("every source file is built") {
  std::set<std::string> compiled;
  const fs::path root = EVICTSIM_SOURCE_DIR;
  std::ifstream commands(fs::path(EVICTSIM_BIN_DIR).parent_path() / "compile_commands.json");
  for (const auto& command : nlohmann::json::parse(commands)) {
    const fs::path file = command.at("file").get<std::string>();
    compiled.insert(file.lexically_normal().lexically_relative(root).generic_string());
  }
  REQUIRE(compiled.count("tests/structure/source_tree_test.cpp") == 1);
  // What this build leaves out (benchmarks, capture without an engine, a user's project) is listed by name.
  std::vector<SourceFile> left_out;
  std::copy_if(tree().sources.begin(), tree().sources.end(), std::back_inserter(left_out),
               [&](const SourceFile& file) { return !compiled.contains(file.path); });
  const auto missing = check_listed(left_out, tree().lists);
  INFO(joined(missing));
  CHECK(missing.empty());
}

TEST_CASE("a policy part lies in the folder of its kind") {
  std::size_t parts = 0;
  for (const SourceFile& file : tree().sources) {
    if (!file.path.starts_with("policies/") || file.text.find("const Registration ") == std::string::npos) continue;
    if (!file.path.ends_with(".cpp") || file.path == "policies/registry.cpp") continue;
    ++parts;
    INFO(file.path);
    CHECK(std::count(file.path.begin(), file.path.end(), '/') >= 2);
  }
  CHECK(parts >= 14);
}

TEST_CASE("the pipeline runs the README's test command") {
  const std::string readme = read(fs::path(EVICTSIM_SOURCE_DIR) / "README.md");
  const std::string pipeline = read(fs::path(EVICTSIM_SOURCE_DIR) / ".ci/run");
  for (const char* command : {"./dev test\n", "./dev demo\n"}) {
    INFO(command);
    CHECK(readme.find(command) != std::string::npos);
    CHECK(pipeline.find(command) != std::string::npos);
  }
}

TEST_CASE("the rules see what they should") {
  SECTION("includes go down") {
    CHECK(breaches("traces/a.cpp", "#include \"models/geometry.h\"\n") == 1);
    CHECK(breaches("policies/scorers/a.cpp", "#include \"sim/replay/engine.h\"\n") == 1);
    CHECK(breaches("analysis/a.cpp", "#include \"sim/cli/main.h\"\n") == 1);
    CHECK(breaches("traces/a.cpp", "#include \"traces/capture/sink.h\"\n") == 1);
    CHECK(breaches("sim/a.cpp", "#include \"tests/support/builder.h\"\n") == 1);
    CHECK(breaches("sim/a.cpp", "#include \"engine.h\"\n") == 1);
    CHECK(breaches("analysis/a.cpp", "#include \"sim/replay/engine.h\"\n#include \"traces/error.h\"\n") == 0);
    CHECK(breaches("sim/cli/main.cpp", "#include \"analysis/run_file.h\"\n") == 0);
    CHECK(breaches("traces/a.cpp", "// #include \"sim/replay/engine.h\"\n") == 0);
  }
  SECTION("HDF5 stays where it belongs") {
    CHECK(breaches("sim/a.cpp", "#include <hdf5.h>\n") == 1);
    CHECK(breaches("models/a.cpp", "auto id = H5Fopen(name, 0, 0);\n") == 1);
    CHECK(breaches("analysis/table.cpp", "hid_t file = 0;\n") == 1);
    CHECK(breaches("analysis/run_file.cpp", "#include <hdf5.h>\nhid_t file = H5Fopen(name, 0, 0);\n") == 0);
    CHECK(breaches("traces/hdf5_file.cpp", "#include <hdf5.h>\n") == 0);
    CHECK(breaches("sim/a.cpp", "/* H5Fopen( */ auto text = \"H5Fopen(\";\n") == 0);
  }
  SECTION("CUDA and flags stay where they belong") {
    CHECK(breaches("models/a.cpp", "#include <cuda_runtime.h>\n") == 1);
    CHECK(breaches("traces/capture/ring.cpp", "#include <cuda_runtime.h>\n") == 0);
    CHECK(breaches("sim/replay/a.cpp", "#include <CLI/CLI.hpp>\n") == 1);
    CHECK(breaches("sim/cli/a.cpp", "#include <CLI/CLI.hpp>\n") == 0);
  }
  SECTION("libraries neither print nor exit") {
    CHECK(breaches("sim/a.cpp", "std::cout << 1;\n") == 1);
    CHECK(breaches("sim/a.cpp", "  printf(\"x\");\n") == 1);
    CHECK(breaches("sim/a.cpp", "fmt::print(\"x\");\n") == 1);
    CHECK(breaches("traces/a.cpp", "std::abort();\n") == 1);
    CHECK(breaches("traces/a.cpp", "  exit(1);\n") == 1);
    CHECK(breaches("traces/a.cpp", "  ::_exit(1);\n") == 1);
    CHECK(breaches("traces/isolation.cpp", "  ::_exit(1);\n") == 0);
    CHECK(breaches("traces/isolation.cpp", "  exit(1);\n") == 1);
    CHECK(breaches("traces/a.cpp", "std::snprintf(buffer, 4, \"x\"); on_exit_(1); loop.exit(2);\n") == 0);
    CHECK(breaches("traces/a.cpp", "// exit(1)\nauto text = \"exit(1)\";\nauto raw = R\"(exit(1))\";\n") == 0);
    CHECK(breaches("sim/cli/a.cpp", "std::cout << 1; exit(1);\n") == 0);
  }
  SECTION("form") {
    CHECK(breaches("sim/a.h", "#include <vector>\n") == 1);
    CHECK(breaches("sim/a.h", "#pragma once\n") == 0);
    CHECK(breaches("tests/unit/a_test.cpp", "#include <vector>\n") == 1);
    std::string long_text;
    for (int i = 0; i < 601; ++i) long_text += "int x;\n";
    CHECK(breaches("sim/a.cpp", long_text) == 1);
  }
  SECTION("digit separators and quotes do not hide code") {
    CHECK(without_comments("int a = 1'000; // x", true) == "int a = 1'000;     ");
    CHECK(without_comments("char c = '\"'; f(\"//\");", false) == "char c = ' '; f(\"  \");");
    CHECK(breaches("sim/a.cpp", "int a = 1'000; std::cout << a;\n") == 1);
    CHECK(breaches("sim/a.cpp", "auto s = \"\\\"\"; std::cout << s;\n") == 1);
  }
  SECTION("a file that no list names") {
    const std::vector<SourceFile> lists = {
        {"policies/CMakeLists.txt", "evictsim_library(policies\n  scorers/argmax.cpp)"}};
    CHECK(check_listed({{"policies/scorers/argmax.cpp", ""}}, lists).empty());
    CHECK(check_listed({{"policies/scorers/max.cpp", ""}}, lists).size() == 1);
    CHECK(check_listed({{"policies/presets/argmax.cpp", ""}}, lists).size() == 1);
    CHECK(check_listed({{"sim/scorers/argmax.cpp", ""}}, lists).size() == 1);
  }
}
