// Does h5py read a run.h5 as docs/run-file.md says, with the values of run.csv and where they come from?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "tests/python/python.h"

using namespace evictsim::test;

TEST_CASE("h5py reads what a replay writes") {
  skip_without_h5py();
  for (const char* file : {"trace.h5", "run.h5", "run.csv"}) std::filesystem::remove(file);
  // Found in PATH, where tests have it: the command line is recorded as typed.
  REQUIRE(std::system("evictsim trace synth --seed 1 --sequences 2 --prompt 200 -o trace.h5 > synth.txt") == 0);
  REQUIRE(std::system("evictsim replay trace.h5 --policy 'knorm,snapkv(window=8),tova' --budget 0.1,0.3 --seed 7 "
                      "--per layer,head,step,entry -o run.h5 --csv run.csv --quiet") == 0);
  CHECK(python(EVICTSIM_SOURCE_DIR "/tests/python/run_file_h5py.py " EVICTSIM_SOURCE_DIR
                                   "/docs/run-file.md trace.h5") == 0);
}
