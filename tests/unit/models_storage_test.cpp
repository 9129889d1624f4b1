// Are descriptions of storage found, read as they are written, turned into links, and refused with file and field?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "models/data_files.h"
#include "models/storage.h"
#include "sim/memory/link.h"
#include "traces/error.h"

using namespace evictsim;
namespace fs = std::filesystem;

namespace {

const fs::path scratch = EVICTSIM_TEST_SCRATCH;

void use_data() { setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1); }

std::pair<ErrorCode, std::string> error_of(const nlohmann::json& object) {
  fs::create_directories(scratch);
  const fs::path file = scratch / "storage.json";
  std::ofstream(file) << object.dump();
  try {
    models::read_storage(file);
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  FAIL("nothing was refused");
  return {};
}

}  // namespace

TEST_CASE("Every description that comes with evictsim is read under its own name and makes a link") {
  use_data();
  std::size_t count = 0;
  for (const std::string& name : models::data_names("storage")) {
    INFO(name);
    const models::Storage storage = models::find_storage(name);
    CHECK(storage.name == name);
    CHECK_NOTHROW(sim::Link(sim::link_options(storage)));
    ++count;
  }
  CHECK(count >= 8);
}

TEST_CASE("Figures arrive in the link unchanged") {
  use_data();
  const sim::LinkOptions nvme = sim::link_options(models::find_storage("nvme-gen4"));
  CHECK(nvme.up.bytes_per_second == 7'000'000'000);
  CHECK(nvme.down.bytes_per_second == 5'000'000'000);
  CHECK(nvme.up.latency == 80'000);
  CHECK(nvme.combined_bytes_per_second == 0);
  CHECK(sim::link_options(models::find_storage("pcie5-x16")).combined_bytes_per_second == 83'400'000'000);
  CHECK(sim::link_options(models::find_storage("s3")).up.latency == 30'000'000);
  // The published law of RDMA transfers: 0.38 ms + bytes / 136 GB/s.
  sim::Link rdma(sim::link_options(models::find_storage("rdma-h800-8nic")));
  rdma.start(0, sim::Direction::up, 1'360'000'000, 1, 1);
  CHECK(rdma.next_arrival() == 380'000 + 10'000'000);
}

TEST_CASE("A GPU's link to the host is that of its description") {
  models::Gpu gpu;
  gpu.name = "some";
  gpu.host_to_device = models::TransferRate{.latency_seconds = 2e-6, .bytes_per_second = 5e10};
  CHECK_THROWS_AS(sim::link_options(gpu), Error);
  gpu.device_to_host = models::TransferRate{.bytes_per_second = 4e10};
  const sim::LinkOptions link = sim::link_options(gpu);
  CHECK(link.up.bytes_per_second == 50'000'000'000);
  CHECK(link.up.latency == 2000);
  CHECK(link.down.bytes_per_second == 40'000'000'000);
}

TEST_CASE("Wrong descriptions are refused with their field") {
  const nlohmann::json good = nlohmann::json::parse(R"({"format": "evictsim-storage", "version": 1, "name": "x",
    "product": "X", "sources": ["a test"], "read": {"latency_seconds": 0, "bytes_per_second": 1e9},
    "write": {"latency_seconds": 0, "bytes_per_second": 1e9, "seconds_per_piece": 1e-6}})");
  nlohmann::json bad = good;
  bad["read"].erase("latency_seconds");
  CHECK(error_of(bad).first == ErrorCode::missing_data);
  CHECK(error_of(bad).second.find("read.latency_seconds") != std::string::npos);
  bad = good;
  bad["write"]["bytes_per_second"] = 0;
  CHECK(error_of(bad).first == ErrorCode::invalid_value);
  bad = good;
  bad["bytes"] = 1;
  CHECK(error_of(bad).first == ErrorCode::unknown_name);
  bad = good;
  bad["version"] = 2;
  CHECK(error_of(bad).first == ErrorCode::unsupported_version);
  bad = good;
  bad["sources"] = nlohmann::json::array();
  CHECK(error_of(bad).first == ErrorCode::invalid_value);
  bad = good;
  bad["format"] = "evictsim-gpu";
  CHECK(error_of(bad).first == ErrorCode::invalid_value);
  use_data();
  CHECK_THROWS_AS(models::find_storage("floppy"), Error);
}
