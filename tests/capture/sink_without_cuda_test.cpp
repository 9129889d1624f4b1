// Is a device tensor refused with a reason by a build that cannot read it, and does the capture go on?
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "tests/support/capture_engine.h"
#include "traces/reader.h"

using namespace evictsim::traces;
using namespace evictsim::traces::capture::test;

TEST_CASE("a build without CUDA says so when a device tensor is pushed") {
  std::filesystem::remove_all("without-cuda");
  Engine engine;
  REQUIRE(engine.open("without-cuda", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  int stream = 0;
  engine.stream = &stream;
  CHECK(engine.step({{"device", 3, 3}}) == EVICTSIM_CAPTURE_UNSUPPORTED);
  std::uint64_t graph = 0;
  CHECK(evictsim_capture_begin_graph(engine.capture, &stream, &graph) == EVICTSIM_CAPTURE_UNSUPPORTED);
  CHECK(std::string(evictsim_capture_last_error()).find("EVICTSIM_CUDA") != std::string::npos);
  engine.stream = nullptr;
  CHECK(engine.run("host", 4, 2) == EVICTSIM_CAPTURE_OK);
  const std::int32_t closed = engine.close();
  INFO(evictsim_capture_last_error());
  REQUIRE(closed == EVICTSIM_CAPTURE_OK);
  const std::vector<Reader> readers = open_traces({"without-cuda"});
  REQUIRE(readers.size() == 1);
  REQUIRE(readers[0].sequences().size() == 1);
  CHECK(readers[0].sequences()[0].request_id.value() == "host");
}
