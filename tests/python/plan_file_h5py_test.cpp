// Does h5py read a plan.h5 as docs/plan.md says, with the values of plan.csv and where they come from?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "tests/python/python.h"

using namespace evictsim::test;

TEST_CASE("h5py reads what a plan writes") {
  skip_without_h5py();
  for (const char* file : {"plan.h5", "plan.csv"}) std::filesystem::remove(file);
  // Found in PATH, where tests have it: the command line is recorded as typed.
  REQUIRE(std::system("evictsim plan --model smollm2-135m --gpu l4,l40s --workload 'closed(concurrency=4)' "
                      "--prompt-tokens 600 --output-tokens 50 --requests-count 20 --seed 3 "
                      "-o plan.h5 --csv plan.csv > plan.txt") == 0);
  CHECK(python(EVICTSIM_SOURCE_DIR "/tests/python/plan_file_h5py.py " EVICTSIM_SOURCE_DIR "/docs/plan.md") == 0);
}
