// Do attention outputs, retained mass and errors of decode rows agree with a float64 reference over the golden kept
// sets?
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "sim/replay/tile.h"
#include "tests/golden/agreement.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

constexpr double tolerance = 1e-5;  // relative to the largest value

std::string layer_name(int layer) {
  const std::string number = std::to_string(layer);
  return "/layer_" + std::string(3 - number.size(), '0') + number;
}

template <typename Values>
double largest_relative_difference(const Values& ours, const std::vector<double>& golden) {
  REQUIRE(ours.size() == golden.size());
  double scale = 0;
  double difference = 0;
  for (std::size_t i = 0; i < golden.size(); ++i) {
    scale = std::max(scale, std::abs(golden[i]));
    difference = std::max(difference, std::abs(static_cast<double>(ours[i]) - golden[i]));
  }
  return difference / scale;
}

}  // namespace

TEST_CASE("full-cache outputs equal the reference", "[golden]") {
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "tiny-g4", "smollm2");
  const H5File golden(golden_path(trace + ".golden.h5"));
  const traces::Reader reader(golden_path(trace + ".h5"));
  const models::Geometry geometry = models::Geometry::of(reader.header());
  const models::Rope rope = models::Rope::of(reader.header());
  for (std::size_t slot = 0; slot < geometry.layers.size(); ++slot) {
    const sim::LayerData layer(geometry, rope, reader.sequences()[0], slot,
                               reader.read_layer(0, geometry.layers[slot]));
    const sim::Tile tile = sim::make_tile(layer, layer.decode_rows(), false, nullptr);
    const auto expected = golden.read("/reference/full" + layer_name(geometry.layers[slot]) + "/output");
    const std::vector<float> ours(tile.output.data(), tile.output.data() + tile.output.size());
    CAPTURE(trace, slot);
    CHECK(largest_relative_difference(ours, expected.values) <= tolerance);
  }
}

TEST_CASE("what a cut does to the output equals the reference", "[golden]") {
  struct Case {
    std::string press, ratio, policy;
  };
  const auto test =
      GENERATE(Case{"snapkv", "0.50", "kvpress:SnapKVPress()"},
               Case{"snapkv-w16-k7", "0.75", "kvpress:SnapKVPress(window_size=16,kernel_size=7)"},
               Case{"knorm", "0.50", "kvpress:KnormPress()"},
               Case{"adakv-snapkv-w16-k7", "0.50", "kvpress:AdaKVPress(SnapKVPress(window_size=16,kernel_size=7))"});
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "tiny-g4", "smollm2");
  const H5File golden(golden_path(trace + ".golden.h5"));
  const std::string group = "/reference/" + test.press + "/" + test.ratio;
  if (!golden.has(group)) return;
  const ReplayCollector ours = replay_golden(trace, test.policy, policies::Budget::from_compression_ratio(test.ratio));
  std::size_t compared = 0;
  for (std::size_t slot = 0; slot < ours.start.layers.size(); ++slot) {
    const std::string layer = group + layer_name(ours.start.layers[slot]);
    const CollectedRows& rows = ours.rows.at({0, slot});
    CAPTURE(trace, test.press, layer);
    // The reference attends over golden's kept set; where a tie fell the other way there is nothing to compare.
    bool same_sets = true;
    for (int head = 0; head < ours.start.kv_heads; ++head) {
      const auto kept = golden.read("/" + test.press + "/" + test.ratio + layer_name(ours.start.layers[slot]) +
                                    "/head_" + std::to_string(head) + "/kept");
      const auto& mine = ours.cuts.at({0, slot}).kept[static_cast<std::size_t>(head)];
      same_sets = same_sets && std::equal(mine.begin(), mine.end(), kept.values.begin(), kept.values.end());
    }
    if (!same_sets) continue;
    ++compared;
    CHECK(largest_relative_difference(rows.retained_mass, golden.read(layer + "/retained_mass").values) <= tolerance);
    CHECK(largest_relative_difference(rows.output_error, golden.read(layer + "/output_error").values) <= tolerance);
    std::vector<double> layer_error;
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      layer_error.push_back(std::sqrt(rows.error_squared[r] / rows.output_squared[r]));
    }
    CHECK(largest_relative_difference(layer_error, golden.read(layer + "/layer_error").values) <= tolerance);
  }
  CHECK(compared + 1 >= ours.start.layers.size());
}
