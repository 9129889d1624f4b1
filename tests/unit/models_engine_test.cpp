// Are descriptions of engines read and written without loss, found by name and version, and refused when wrong?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "models/engine.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;
namespace fs = std::filesystem;

namespace {

const fs::path scratch = EVICTSIM_TEST_SCRATCH;

void use_data() {
  fs::create_directories(scratch);
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
}

nlohmann::json vllm() {
  std::ifstream stream(EVICTSIM_SOURCE_DIR "/models/engines/vllm.json");
  return nlohmann::json::parse(stream);
}

void refused(const nlohmann::json& object, ErrorCode code, const std::string& field) {
  const fs::path file = scratch / "some.json";
  std::ofstream(file) << object.dump();
  CAPTURE(object.dump(1).substr(0, 400), field);
  try {
    read_engine(file);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK_THAT(error.what(), Catch::Contains("some.json") && Catch::Contains(field));
  }
}

}  // namespace

TEST_CASE("the engines that come with evictsim are whole, physical and rewritten as they are") {
  use_data();
  for (const char* const name : {"vllm", "sglang", "trtllm"}) {
    CAPTURE(name);
    const Engine engine = find_engine(name);
    CHECK(engine.name == name);
    CHECK(engine.version.empty());
    CHECK_FALSE(engine.sources.front().empty());
    CHECK_FALSE(engine_versions(engine).empty());
    const EngineConstants mean = adjusted_constants(engine, "none", "none", "none");
    for (const double share : {mean.weight_bandwidth_share, mean.kv_bandwidth_share, mean.gemm_flops_share,
                               mean.attention_flops_share, mean.link_bandwidth_share}) {
      CHECK(share > 0.1);
      CHECK(share < 0.951);
    }
    const fs::path copy = scratch / "copy.json";
    write_engine(copy, engine);
    std::ifstream written(copy), own(fs::path(EVICTSIM_SOURCE_DIR "/models/engines") / (std::string(name) + ".json"));
    CHECK(nlohmann::json::parse(written) == nlohmann::json::parse(own));
  }
}

TEST_CASE("a version follows a colon and must have been measured") {
  use_data();
  CHECK(find_engine("vllm:0.19.0").version == "0.19.0");
  CHECK_THROWS_WITH(find_engine("vllm:0.0.0"), Catch::Contains("0.19.0"));
  CHECK_THROWS_WITH(find_engine("no-engine"), Catch::Contains("vllm"));
}

TEST_CASE("a description that breaks a rule is refused with file and field") {
  use_data();
  const nlohmann::json good = vllm();
  auto bad = good;
  bad["constants"]["layer_seconds"] = 0;
  refused(bad, ErrorCode::invalid_value, "layer_seconds");
  bad = good;
  bad["constants"].erase("layer_seconds");
  refused(bad, ErrorCode::missing_data, "layer_seconds");
  bad = good;
  bad["constants"]["warp"] = 1;
  refused(bad, ErrorCode::unknown_name, "warp");
  bad = good;
  bad["adjustments"][0]["factors"]["warp"] = 1;
  refused(bad, ErrorCode::unknown_name, "warp");
  bad = good;
  bad["memory_share"] = 1.5;
  refused(bad, ErrorCode::invalid_value, "memory_share");
  bad = good;
  bad["kv_overhead"]["share_of"] = "all";
  refused(bad, ErrorCode::invalid_value, "share_of");
  bad = good;
  bad["sources"] = nlohmann::json::array();
  refused(bad, ErrorCode::invalid_value, "sources");
  bad = good;
  bad["version"] = 99;
  refused(bad, ErrorCode::unsupported_version, "version");
}
