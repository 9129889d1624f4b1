// Do the bodies of the probe's kernels attend as the float64 reference does, and read all memory?
#include <catch2/catch.hpp>

#include "tests/support/cuda_attention_checks.h"
#include "tests/support/cuda_double.h"
#include "traces/capture/probe/cuda_probe_device.h"
#include "traces/error.h"

using namespace evictsim::tests;
using namespace evictsim::traces::capture;

namespace {

void on_host(void (*check)(CudaRuntime&)) {
  CudaDouble runtime({});
  check(runtime);
  CHECK(runtime.leaks() == 0);
  CHECK(runtime.breaches().empty());
}

}  // namespace

TEST_CASE("decode attention over pages is that of the reference") { on_host(check_decode_attention); }
TEST_CASE("memory is read from end to end") { on_host(check_memory_read); }

TEST_CASE("a shape that the kernel does not take is refused") {
  CudaDouble runtime({});
  const auto refused = [&](const AttentionCase& step) {
    CHECK_THROWS_AS(PagedCacheMemory(runtime, runtime.engine_stream(), step, 0), evictsim::Error);
  };
  refused({ElementType::f16, 9, 128, 16, {4}});
  refused({ElementType::f16, 0, 128, 16, {4}});
  refused({ElementType::f16, 4, 100, 16, {4}});
  refused({ElementType::f16, 4, 264, 16, {4}});
  refused({ElementType::f16, 4, 128, 0, {4}});
  refused({ElementType::f16, 4, 128, 16, {}});
  refused({ElementType::f16, 4, 128, 16, {4, -1}});
}

TEST_CASE("a pool is as large as four L2 caches") {
  CHECK(cache_copies(100, 0) == 1);
  CHECK(cache_copies(100, 25) == 1);
  CHECK(cache_copies(100, 26) == 2);
  CHECK(cache_copies(0, 1) == 1);
}
