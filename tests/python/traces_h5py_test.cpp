// Do evictsim and h5py read each other's traces?
#include <catch2/catch.hpp>
#include <string>

#include "tests/python/python.h"
#include "tests/support/small_trace.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using namespace evictsim::traces::test;
using evictsim::test::python;
using evictsim::test::skip_without_h5py;

namespace {

const std::string script = EVICTSIM_SOURCE_DIR "/tests/python/traces_h5py.py";

}  // namespace

TEST_CASE("h5py reads what evictsim writes") {
  skip_without_h5py();
  const auto type = GENERATE(TensorType::float16, TensorType::bfloat16, TensorType::float32);
  write_small_trace("ours.h5", {type, type != TensorType::float32});
  CHECK(python(script + " check ours.h5 " + to_string(type)) == 0);
}

TEST_CASE("evictsim reads what h5py writes") {
  skip_without_h5py();
  const auto type = GENERATE(TensorType::float16, TensorType::bfloat16, TensorType::float32);
  REQUIRE(python(script + " write theirs.h5 " + to_string(type)) == 0);
  CHECK(verify("theirs.h5").empty());
  const Reader reader("theirs.h5");
  CHECK(reader.header().model == "fixed length");
  CHECK(reader.header().attention_scale == 0.25);
  CHECK(reader.header().inv_freq == std::vector<double>{1, 0.5, 0.25, 0.125});
  CHECK(reader.header().extra.at("capture_threads") == "3");
  CHECK(reader.read_channel(0, Channel::token_ids)->data[19] == 19);
  for (const int layer : {0, 1}) {
    CHECK(reader.stored_type(0, layer) == type);
    const LayerTensors tensors = reader.read_layer(0, layer);
    const std::vector<float> k = pattern(320, 10 * layer);
    const std::vector<float> q = pattern(640, 10 * layer + 2);
    int wrong = 0;
    for (std::size_t row = 0; row < 20; ++row) {
      for (std::size_t item = 0; item < 8; ++item) {
        for (std::size_t head = 0; head < 2; ++head) {
          wrong += tensors.k[(head * 20 + row) * 8 + item] != k[(row * 2 + head) * 8 + item];
        }
        for (std::size_t head = 0; head < 4; ++head) {
          wrong += tensors.q[(head * 20 + row) * 8 + item] != q[(row * 4 + head) * 8 + item];
        }
      }
    }
    CHECK(wrong == 0);
  }
}
