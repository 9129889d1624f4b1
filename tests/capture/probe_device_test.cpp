// Does a real device run the probe, and do its kernels compute what the host computes?
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "models/gpu.h"
#include "tests/support/cuda_attention_checks.h"
#include "traces/capture/cuda/toolkit_runtime.h"
#include "traces/capture/probe/probe_plan.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

namespace {

/// Without a device there is nothing to test: CTest takes this status for "skipped".
const bool has_device = [] {
  try {
    open_probe_device(0);
    return true;
  } catch (const Error& error) {
    std::printf("skipped: %s\n", error.what());
    std::fflush(stdout);
    std::_Exit(77);
  }
}();

}  // namespace

TEST_CASE("device: decode attention over pages is that of the reference") {
  tests::check_decode_attention(*make_toolkit_runtime());
}
TEST_CASE("device: memory is read from end to end") { tests::check_memory_read(*make_toolkit_runtime()); }

TEST_CASE("device: a probe writes a description that is read again") {
  const auto device = open_probe_device(0);
  const models::Gpu gpu = probe(*device, quick_plan(), std::nullopt, "this test", [](const std::string&) {});
  const std::string file = std::string(EVICTSIM_TEST_SCRATCH) + "/probed.json";
  models::write_gpu(file, gpu);
  const models::Gpu read = models::read_gpu(file);
  CHECK(read.memory_bytes_per_second > read.host_to_device.value().bytes_per_second);
  CHECK(read.decode_attention);
  CHECK(read.visible_bytes.value() > 0);
}
