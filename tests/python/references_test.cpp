// Do the reference programs of tests/golden/references write what is stored beside the golden values?
#include <catch2/catch.hpp>
#include <string>

#include "tests/python/python.h"

using evictsim::test::python;
using evictsim::test::skip_without_h5py;

TEST_CASE("the stored references are what their programs compute") {
  skip_without_h5py();
  const std::string root = EVICTSIM_SOURCE_DIR;
  CHECK(python(root + "/tests/python/references.py " + root) == 0);
}
