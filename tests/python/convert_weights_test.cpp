// Does policies/convert_weights.py write weights as docs/weights.md says, and refuse what it cannot convert?
#include <catch2/catch.hpp>
#include <string>

#include "tests/python/python.h"

using evictsim::test::python;
using evictsim::test::skip_without_h5py;

TEST_CASE("the converter takes safetensors of every system") {
  skip_without_h5py();
  const std::string root = EVICTSIM_SOURCE_DIR;
  CHECK(python(root + "/tests/python/convert_weights.py " + root + "/policies/convert_weights.py") == 0);
}
