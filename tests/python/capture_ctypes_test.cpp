// Does the NumPy example capture itself through ctypes, and does its trace give its attention back?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "models/attention.h"
#include "tests/python/python.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using evictsim::models::LogitRule;
using evictsim::models::MatrixView;
using evictsim::models::view;
using evictsim::test::python;

namespace {

/// The numbers behind `word` at the start of a line.
std::vector<double> numbers_after(const std::string& word, const std::string& file) {
  std::ifstream stream(file);
  std::vector<double> numbers;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string first;
    if (!(words >> first) || first != word) continue;
    for (double number = 0; words >> number;) numbers.push_back(number);
  }
  return numbers;
}

}  // namespace

TEST_CASE("the NumPy example's trace gives its attention back") {
  if (python("-c 'import numpy' 2>/dev/null") != 0) {
    WARN("skipped: /usr/bin/python3 has no numpy (Debian package python3-numpy)");
    return;
  }
  std::filesystem::remove_all("numpy-engine");
  REQUIRE(python(EVICTSIM_SOURCE_DIR "/traces/capture/examples/numpy_engine.py " EVICTSIM_CAPTURE_LIBRARY
                                     " numpy-engine > output.txt") == 0);
  CHECK(verify("numpy-engine").empty());
  const Reader reader = std::move(open_traces({"numpy-engine"}).at(0));
  const std::vector<float> stored = reader.read_channel(0, Channel::token_ids).value().data;
  std::vector<double> tokens = numbers_after("tokens", "output.txt");
  REQUIRE(tokens.size() == 27);
  tokens.pop_back();  // the last one was chosen and never run
  CHECK(std::vector<double>(stored.begin(), stored.end()) == tokens);
  CHECK(reader.has_weight(0, LayerWeight::w_o));

  const std::vector<double> wanted = numbers_after("attention", "output.txt");
  const LayerTensors tensors = reader.read_layer(0, 1);
  const std::size_t length = 26, width = 16, heads = 4;
  REQUIRE(wanted.size() == heads * width);
  std::vector<std::int32_t> entries(length);
  std::iota(entries.begin(), entries.end(), 0);
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t group = head / 2;
    const MatrixView keys = view(tensors.k.data() + group * length * width, 26, 16);
    const MatrixView values = view(tensors.v.data() + group * length * width, 26, 16);
    const std::span<const float> query(tensors.q.data() + (head * length + length - 1) * width, width);
    const auto weights =
        evictsim::models::reference_weights(query, keys, entries, LogitRule{reader.header().attention_scale, 0});
    const std::vector<double> output = evictsim::models::reference_output(weights, values, entries);
    for (std::size_t i = 0; i < width; ++i) CHECK(output[i] == Approx(wanted[head * width + i]).margin(1e-5));
  }
}
