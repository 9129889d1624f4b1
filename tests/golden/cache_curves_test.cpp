// Do LRU hit ratios of the published request traces come out to the last digit?
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>

#include "sim/memory/hit_ratio.h"
#include "traces/blocks/block_trace.h"

using namespace evictsim;

namespace {

struct Curve {
  std::size_t references = 0;
  std::uint32_t objects = 0;
  std::map<std::uint64_t, int> ten_thousandths;  ///< of the hit ratio, by blocks
};

/// See tests/golden/data/mooncake/README.md.
const std::map<std::string, Curve>& published() {
  constexpr std::uint64_t infinite = sim::largest_cache;
  static const std::map<std::string, Curve> curves = {
      {"conversation_trace.jsonl",
       {288500,
        182790,
        {{1000, 445},
         {2000, 543},
         {5000, 1118},
         {10000, 2116},
         {20000, 2878},
         {30000, 3257},
         {50000, 3546},
         {100000, 3637},
         {infinite, 3664}}}},
      {"synthetic_trace.jsonl",
       {121877, 43924, {{1000, 841}, {5000, 2793}, {10000, 4239}, {20000, 5718}, {30000, 6242}, {infinite, 6396}}}}};
  return curves;
}

}  // namespace

TEST_CASE("LRU over blocks of 512 tokens") {
  for (const auto& [name, curve] : published()) {
    INFO(name);
    const traces::BlockTrace trace =
        traces::read_block_trace(std::filesystem::path(EVICTSIM_SOURCE_DIR) / "tests/golden/data/mooncake" / name);
    CHECK(trace.references.size() == curve.references);
    CHECK(trace.objects == curve.objects);
    sim::HitRatioOptions options;
    for (const auto& [size, ratio] : curve.ten_thousandths) options.sizes.push_back(size);
    const auto together = sim::hit_ratios(trace, sim::parse_replacements("lru"), options);
    for (const sim::HitRatio& row : together) {
      INFO(row.size << " blocks");
      CHECK(std::lround(row.hit_ratio * 10000) == curve.ten_thousandths.at(row.size));
      options.sizes = {row.size};
      CHECK(sim::hit_ratios(trace, sim::parse_replacements("lru"), options).front().hits == row.hits);
    }
  }
}
