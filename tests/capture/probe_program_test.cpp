// Does `evictsim-capture probe` answer as documented on a machine without a device?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "models/gpu.h"
#include "tests/capture/capture_program.h"

namespace evictsim::tests {
namespace {

// No device, whatever the machine has.
Outcome run(const std::string& arguments) { return run_capture(arguments, "CUDA_VISIBLE_DEVICES= "); }

void write_activity() {
  std::ofstream stream("activity.csv");
  stream << "device,start_ns,end_ns,name\n";
  for (int step = 0; step < 3; ++step) {
    const int at = step * 1'000'000;
    stream << "0," << at << ',' << at + 300'000 << ",nvjet_tst_128x64\n";
    stream << "0," << at + 300'000 << ',' << at + 350'000 << ",flash::flash_fwd_splitkv_kernel\n";
    stream << "0," << at + 400'000 << ',' << at + 420'000 << ",ncclDevKernel_AllReduce_Sum_bf16\n";
  }
}

}  // namespace

TEST_CASE("without a device a probe says so in one line and fails") {
  std::filesystem::remove("gpu.json");
  const Outcome outcome = run("probe -o gpu.json");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(std::count(outcome.output.begin(), outcome.output.end(), '\n') == 1);
  CHECK_THAT(outcome.output, Catch::StartsWith("evictsim-capture: "));
  CHECK((outcome.output.find("built without CUDA") != std::string::npos ||
         outcome.output.find("no CUDA device") != std::string::npos));
  CHECK_FALSE(std::filesystem::exists("gpu.json"));
}

TEST_CASE("activity is added to a description without a device") {
  write_activity();
  const Outcome outcome = run("probe --no-device --base l40s --activity activity.csv --name served -o served.json");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.output, Catch::Contains("3 engine steps of 0.420 ms"));
  const models::Gpu gpu = models::read_gpu("served.json");
  CHECK(gpu.name == "served");
  CHECK(gpu.product == "NVIDIA L40S");
  REQUIRE(gpu.engine_steps);
  CHECK(gpu.engine_steps->gemm_seconds == Approx(300e-6));
  CHECK(gpu.engine_steps->attention_seconds == Approx(50e-6));
  CHECK(gpu.engine_steps->collective_seconds == Approx(20e-6));
  CHECK(gpu.engine_steps->idle_seconds == Approx(50e-6));
  // The result is a base like any other.
  CHECK(run("probe --no-device --base ./served.json -o again.json").status == 0);
}

TEST_CASE("mistakes are answered with one line and the right status") {
  write_activity();
  const auto answers = [](const std::string& arguments, int status, const std::string& text) {
    CAPTURE(arguments);
    const Outcome outcome = run(arguments);
    CHECK(outcome.status == status);
    CHECK_THAT(outcome.output, Catch::Contains(text));
    if (status == 1) CHECK(std::count(outcome.output.begin(), outcome.output.end(), '\n') == 1);
  };
  answers("probe", 2, "--output");
  answers("probe -o x.json --no-device", 2, "--base");
  answers("probe -o x.json --step-end f", 2, "--activity");
  answers("probe -o x.json --no-device --base nothing", 1, "rtx-4090");
  answers("probe -o x.json --no-device --base l40s --activity absent.csv", 1, "absent.csv");
  answers("probe -o x.json --no-device --base l40s --activity activity.csv --step-end no_such", 1, "0 steps");
  answers("probe -o x.json --no-device --base l40s --activity activity.csv --activity-device 5", 1,
          "activity.csv: activity-device = 5: ");
  answers("probe -o absent/x.json --no-device --base l40s", 1, "absent/x.json");
}

TEST_CASE("recording fails in one line where llama.cpp or the model is missing") {
  const Outcome outcome = run("run --model m.gguf --prompt p.txt -o t.h5");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(std::count(outcome.output.begin(), outcome.output.end(), '\n') == 1);
  CHECK_THAT(outcome.output, Catch::Contains(EVICTSIM_EXPECTED_REASON));
}

}  // namespace evictsim::tests
