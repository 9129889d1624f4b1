// Do codes whose axes or levels have no single right answer lose what they must, and no more?
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "tests/golden/placement_groups.h"
#include "tests/support/placement_double.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

/// |decoded - recorded|^2 / |recorded|^2 over records of all heads, summed and divided.
class Distortion {
 public:
  void add(const models::MatrixView& decoded, const models::Matrix& recorded, int row) {
    error_ += static_cast<double>((decoded.row(row) - recorded.row(row)).squaredNorm());
    size_ += static_cast<double>(recorded.row(row).squaredNorm());
  }
  [[nodiscard]] double value() const { return error_ / size_; }

 private:
  double error_ = 0, size_ = 0;
};

}  // namespace

TEST_CASE("records along random axes lose what random axes lose in the mean", "[golden]") {
  const H5File golden(golden_path("references-records.golden.h5"));
  int compared = 0;
  for (const std::string& id : golden.children("/")) {
    if (!golden.has("/" + id + "/distortion")) continue;
    const Group group = group_of(golden, id);
    const std::vector<double> expected = golden.read("/" + id + "/distortion").values;
    const traces::Reader reader(golden_path(group.trace + ".h5"));
    const H5File stored(golden_path(group.trace + ".h5"));
    for (const int layer : group.layers) {
      TraceCache cache(stored, reader.header(), layer, reader.sequences()[0].prompt_length);
      tests::PlacementWalk walk(cache, group.policy, static_cast<std::int64_t>(group.entries));
      Distortion keys, values;
      for (int head = 0; head < cache.heads(); ++head) {
        for (int row = 0; row < reader.sequences()[0].prompt_length - 40; ++row) {
          keys.add(walk.placement->attended_keys(walk.view, head), cache.all_keys[static_cast<std::size_t>(head)], row);
          values.add(walk.placement->attended_values(walk.view, head), cache.all_values[static_cast<std::size_t>(head)],
                     row);
        }
      }
      fmt::print("{:40} layer {}: keys lose {:.4f}, expected {:.4f}; values {:.4f}, expected {:.4f}\n", id, layer,
                 keys.value(), expected[0], values.value(), expected[1]);
      CAPTURE(id, layer);
      // One draw of axes for a layer: keys have a large part in common, so a few components weigh most.
      CHECK(keys.value() == Approx(expected[0]).epsilon(0.25));
      CHECK(values.value() == Approx(expected[1]).epsilon(0.25));
      ++compared;
    }
  }
  CHECK(compared >= 10);
}

TEST_CASE("KVQuant's keys lie on one set of levels that are nearly the best there are", "[golden]") {
  const H5File golden(golden_path("references-placements.golden.h5"));
  const std::string id =
      GENERATE("kvquant-2-0.02-tiny-g2", "kvquant-3-0.01-tiny-g4", "kvquant-3-0.1-smollm2", "kvquant-1-0.0-tiny-g1");
  const Group group = group_of(golden, id);
  const int bits = std::stoi(golden.attributes("/" + id).at("bits"));
  const H5Array bounds = golden.read("/" + id + "/bounds");
  const H5Array least_error = golden.read("/" + id + "/least_error");
  const traces::Reader reader(golden_path(group.trace + ".h5"));
  const H5File stored(golden_path(group.trace + ".h5"));
  // Bounds are kept as float16 numbers: so closely do scaled numbers agree.
  constexpr double near = 4e-3;
  for (std::size_t slot = 0; slot < reader.header().layers.size(); ++slot) {
    const int prompt = reader.sequences()[0].prompt_length;
    TraceCache cache(stored, reader.header(), reader.header().layers[slot], prompt);
    keep_newest(cache, group.entries);
    tests::PlacementWalk walk(cache, group.policy, static_cast<std::int64_t>(group.entries));
    const auto width = static_cast<std::size_t>(cache.geometry().head_dim);
    const auto before_rope = [&](const auto& tensor, int row) {
      std::vector<double> key(tensor.row(row).data(), tensor.row(row).data() + width);
      cache.rope().invert(std::span<double>(key), row);
      return key;
    };
    std::vector<double> coded, exact;  // scaled, within the bounds
    std::vector<double> fitted;        // of the whole prompt
    std::size_t outliers = 0, exact_outliers = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      const models::MatrixView keys = walk.placement->attended_keys(walk.view, head);
      for (int row = 0; row < prompt; ++row) {
        const bool is_cold = row > 0 && row < prompt - static_cast<int>(group.entries);
        const std::vector<double> ours = before_rope(keys, row);
        const std::vector<double> recorded = before_rope(cache.all_keys[static_cast<std::size_t>(head)], row);
        for (std::size_t c = 0; c < width; ++c) {
          const std::size_t place = ((slot * cache.resident.size() + static_cast<std::size_t>(head)) * width + c) * 2;
          const double low = bounds.values[place], high = bounds.values[place + 1];
          const auto scaled = [&](double x) { return 2 * (x - low) / (high - low) - 1; };
          const double x = scaled(recorded[c]);
          if (std::abs(x) <= 1 + 1e-5) fitted.push_back(x);  // also what lies on a bound
          if (!is_cold) continue;
          if (std::abs(x) > 1 + near) {
            ++outliers;
            if (std::abs(ours[c] - recorded[c]) <= 0x1p-10 * std::abs(recorded[c])) ++exact_outliers;
          } else if (std::abs(x) < 1 - near) {
            exact.push_back(x);
            coded.push_back(scaled(ours[c]));
          }
        }
      }
    }
    CAPTURE(id, slot);
    CHECK(exact_outliers == outliers);
    std::vector<double> levels;  // clusters of what was decoded
    std::vector<double> sorted = coded;
    std::sort(sorted.begin(), sorted.end());
    for (const double value : sorted) {
      if (levels.empty() || value - levels.back() > 2 * near) levels.push_back(value);
    }
    CHECK(levels.size() <= std::size_t{1} << static_cast<unsigned>(bits));
    std::size_t farther = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      for (const double level : levels) {
        if (std::abs(coded[i] - exact[i]) > std::abs(level - exact[i]) + 2 * near) ++farther;
      }
    }
    double error = 0;
    for (const double x : fitted) {
      double nearest = std::abs(x - levels.front());
      for (const double level : levels) nearest = std::min(nearest, std::abs(x - level));
      error += nearest * nearest / static_cast<double>(fitted.size());
    }
    CHECK(farther == 0);
    fmt::print("{:24} layer {}: {} levels, squared error {:.5f}, least {:.5f}; {} outliers\n", id, slot, levels.size(),
               error, least_error.values[slot], outliers);
    CHECK(error >= 0.99 * least_error.values[slot]);
    CHECK(error <= 1.05 * least_error.values[slot]);
  }
}
