// Does the shared library serve a program in C, and does it show nothing but its interface?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;

namespace {

int run(const std::string& command) { return std::system(command.c_str()); }

}  // namespace

TEST_CASE("the example in C records a trace that holds what it pushed") {
  std::filesystem::remove_all("c-engine");
  REQUIRE(run("evictsim_example_engine c-engine") == 0);
  CHECK(verify("c-engine").empty());
  const Reader reader = std::move(open_traces({"c-engine"}).at(0));
  CHECK(reader.header().engine == "engine.c");
  REQUIRE(reader.sequences().size() == 1);
  CHECK(reader.sequences()[0].prompt_length == 24);
  CHECK(reader.sequences()[0].length == 32);
  const LayerTensors tensors = reader.read_layer(0, 1);
  CHECK(tensors.q_rows.front() == 8);
  CHECK(tensors.q_rows.size() == 24);
  // Head 1 of row 3 of the prompt, by the example's formula: 3 rows of 2 heads, then one head, of 8 numbers each.
  for (int i = 0; i < 8; ++i) {
    const int element = 3 * 2 * 8 + 8 + i;
    CHECK(tensors.k[static_cast<std::size_t>((32 + 3) * 8 + i)] ==
          static_cast<float>((element * 37 + 1 * 11 + 1 * 5) % 127 - 63) / 32);
  }
}

TEST_CASE("the example in C says why it cannot go on") {
  CHECK(run("evictsim_example_engine no/such/parent 2> refused.txt") != 0);
  std::ifstream stream("refused.txt");
  std::string line;
  std::getline(stream, line);
  CHECK(line == "engine: no/such/parent: cannot create the directory: No such file or directory");
}

TEST_CASE("the library shows the functions of its header only") {
  std::ifstream header(EVICTSIM_SOURCE_DIR "/traces/capture/evictsim_capture.h");
  std::size_t declared = 0;
  for (std::string line; std::getline(header, line);) {
    if (line.starts_with("EVICTSIM_CAPTURE_API ")) ++declared;
  }
  CHECK(declared >= 14);
  REQUIRE(run("nm -D --defined-only " EVICTSIM_CAPTURE_LIBRARY " > symbols.txt") == 0);
  std::ifstream stream("symbols.txt");
  std::size_t functions = 0;
  for (std::string line; std::getline(stream, line);) {
    const std::string name = line.substr(line.rfind(' ') + 1);
    INFO(name);
    CHECK(name.starts_with("evictsim_capture_"));
    ++functions;
  }
  CHECK(functions == declared);
}
