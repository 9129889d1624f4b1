// Do the bodies of the capture kernels compute what Eigen computes, for all shapes, strides and element types?
#include <catch2/catch.hpp>

#include "tests/support/cuda_double.h"
#include "tests/support/cuda_kernel_checks.h"

using namespace evictsim::tests;

namespace {

void on_host(void (*check)(evictsim::traces::capture::CudaRuntime&)) {
  CudaDouble runtime({});
  check(runtime);
  CHECK(runtime.leaks() == 0);
  CHECK(runtime.breaches().empty());
}

}  // namespace

TEST_CASE("rows are gathered from any layout and cast") { on_host(check_gather); }
TEST_CASE("every pattern is cast to the nearest, ties to even") { on_host(check_casts); }
TEST_CASE("logits become entropies and log-probabilities") { on_host(check_logits); }
TEST_CASE("rows become norms, cosines and distances") { on_host(check_comparison); }
