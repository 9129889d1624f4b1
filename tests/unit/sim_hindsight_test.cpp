// Are regret, the oracle's gain and premature evictions what their definitions say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "sim/replay/layer_cache.h"
#include "sim/replay/most_attended.h"
#include "sim/replay/oracle.h"
#include "tests/support/layer_tiles.h"
#include "tests/support/memory_trace_exact.h"
#include "tests/support/memory_trace_replay.h"

namespace {

using namespace evictsim;
using namespace evictsim::sim;
using namespace evictsim::test;
using policies::Granularity;

constexpr double tolerance = 2e-6;  // sums of at most 60 float32 probabilities

std::vector<std::int32_t> all_rows(std::int32_t count) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

/// One head, whose rows attend the entries seen in proportion to `weights`.
MemoryTrace weighted_trace(const std::vector<double>& weights, std::int32_t prompt_length) {
  TraceShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .prompt_length = prompt_length};
  shape.length = static_cast<std::int32_t>(weights.size());
  MemoryTrace trace = random_trace(shape);
  for (std::int32_t row = 0; row < shape.length; ++row) {
    trace.key(0, 0, row, 0) = static_cast<float>(std::log(weights[static_cast<std::size_t>(row)]));
    trace.key(0, 0, row, 1) = 0;
    trace.query(0, 0, row, 0) = static_cast<float>(1 / trace.header.attention_scale);
  }
  return trace;
}

std::vector<TraceShape> shapes() {
  TraceShape plain{.layers = 1, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 40, .length = 60};
  TraceShape gaps = plain;
  gaps.q_rows = {3, 38, 39, 40, 43, 44, 50, 51, 59};
  TraceShape single_group = plain;
  single_group.query_heads = 2;
  TraceShape steep = plain;
  steep.query_spread = 12;
  return {plain, gaps, single_group, steep};
}

/// The `count` best rows by falling value, older first.
std::vector<std::int32_t> largest(const std::vector<double>& values, std::vector<std::int32_t> rows,
                                  std::size_t count) {
  std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  rows.resize(std::min(count, rows.size()));
  return rows;
}

double sum_at(const std::vector<double>& values, const std::vector<std::int32_t>& rows) {
  double sum = 0;
  for (const std::int32_t row : rows) sum += values[static_cast<std::size_t>(row)];
  return sum;
}

}  // namespace

TEST_CASE("regret, gain, overlap and premature evictions of four weighted entries") {
  const MemoryTrace trace = weighted_trace({1, 8, 2, 4, 1}, 4);  // row 4 attends 1/16, 1/2, 1/8, 1/4, 1/16
  const LoadedLayer loaded(trace);
  const LayerData& layer = loaded.data();
  FutureMass mass;
  const std::vector<Tile> tiles = attended_tiles(layer, 8, mass);
  REQUIRE(tiles.size() == 1);
  const std::vector<std::int32_t> held = all_rows(4);
  const std::vector<CacheHead> heads = cache_heads(layer, Granularity::kv_head);
  Oracle oracle(layer, heads, mass, held);
  const std::vector<std::int32_t> kept = {0, 3};  // the oracle keeps 1 and 3
  CHECK(oracle.overlap(0, kept) == 0.5);
  CHECK(oracle.overlap(0, std::vector<std::int32_t>{}) == 1.0);
  oracle.expect(0, 2);
  oracle.expect(0, 4);
  oracle.attend(tiles[0]);
  Matrix regret(1, 1);
  Matrix gain(1, 1);
  oracle.compare(tiles[0], 0, kept, regret, gain);
  CHECK(regret(0, 0) == Approx(0.75 - 0.3125).margin(1e-6));
  CHECK(gain(0, 0) == Approx(0.75 - 0.5 * 0.9375).margin(1e-6));
  regret.setConstant(7);
  // With the decode row, which every policy that ranks once keeps.
  oracle.compare(0, 2, Matrix::Constant(1, 1, 0.3125F + 0.0625F), regret, gain);
  CHECK(regret(0, 0) == Approx(0.4375).margin(1e-6));
  oracle.compare(tiles[0], 0, held, regret, gain);
  CHECK(regret(0, 0) == 0);
  CHECK(gain(0, 0) == 0);

  // Attended most: 1, 3, 2, then 0 before 4, which weighs as much but is younger.
  const std::vector<std::uint16_t> level = {0, 2, 1, 0};  // member 0 keeps {0, 3}, member 1 also 2
  const std::vector<std::vector<float>> expected = {{1.0F, 0.5F, 2 / 3.0F, 0.5F, 0.4F},
                                                    {1.0F, 0.5F, 1 / 3.0F, 0.25F, 0.2F}};
  for (Index count = 1; count <= 6; ++count) {
    const MostAttended most(layer, tiles[0], count);
    CHECK(most.at(0, 0).size() == static_cast<std::size_t>(std::min<Index>(count, 5)));
    std::vector<Matrix> shares(2, Matrix(1, 1));
    most.evicted_from_chain(level, heads[0], shares);
    for (std::size_t member = 0; member < 2; ++member) {
      CHECK(shares[member](0, 0) == expected[member][static_cast<std::size_t>(std::min<Index>(count, 5) - 1)]);
    }
  }
}

TEST_CASE("regret and gain in every row and head, against sums in double") {
  const auto granularity = GENERATE(Granularity::kv_head, Granularity::query_head);
  const std::size_t block = GENERATE(std::size_t{4}, std::size_t{100});
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer loaded(trace);
    const LayerData& layer = loaded.data();
    const ExactLayer exact(trace);
    FutureMass mass;
    const std::vector<Tile> tiles = attended_tiles(layer, block, mass);
    const std::vector<CacheHead> heads = cache_heads(layer, granularity);
    Oracle oracle(layer, heads, mass, all_rows(40));
    // A cut of its own size in every head.
    std::mt19937_64 generator(3);
    std::vector<std::vector<std::int32_t>> kept;
    for (std::size_t head = 0; head < heads.size(); ++head) {
      std::vector<std::int32_t> rows = all_rows(40);
      std::shuffle(rows.begin(), rows.end(), generator);
      rows.resize(3 + 5 * head);
      std::sort(rows.begin(), rows.end());
      oracle.expect(head, rows.size());
      oracle.expect(head, 1);
      kept.push_back(std::move(rows));
    }
    double worst = 0;
    for (const Tile& tile : tiles) {
      oracle.attend(tile);
      for (std::size_t head = 0; head < heads.size(); ++head) {
        const CacheHead& reads = heads[head];
        std::vector<double> future(40, 0.0);
        for (int h = reads.first_query_head; h < reads.first_query_head + reads.query_heads; ++h) {
          const std::vector<double> of_head = exact.mass(h, exact.decode_rows());
          for (std::size_t j = 0; j < 40; ++j) future[j] += of_head[j];
        }
        const std::vector<std::int32_t> best = largest(future, all_rows(40), kept[head].size());
        Matrix regret = Matrix::Constant(tile.size(), shape.query_heads, 9);
        Matrix gain = regret;
        Matrix same_regret = regret;
        Matrix same_gain = regret;
        Matrix retained = regret;
        oracle.compare(tile, head, kept[head], regret, gain);
        for (int h = reads.first_query_head; h < reads.first_query_head + reads.query_heads; ++h) {
          for (Index r = 0; r < tile.size(); ++r) {
            const std::vector<double> weights = exact.weights(h, tile.rows[static_cast<std::size_t>(r)]);
            const double prompt = sum_at(weights, all_rows(40));
            const double ours = sum_at(weights, kept[head]);
            const double theirs = sum_at(weights, best);
            const double drawn = prompt * static_cast<double>(kept[head].size()) / 40;
            worst = std::max(worst, std::abs(static_cast<double>(regret(r, h)) - (theirs - ours)));
            worst = std::max(worst, std::abs(static_cast<double>(gain(r, h)) - (theirs - drawn)));
            retained(r, h) = static_cast<float>(ours + 1 - prompt);
          }
        }
        oracle.compare(head, kept[head].size(), retained, same_regret, same_gain);
        worst = std::max(worst, static_cast<double>((same_regret - regret).cwiseAbs().maxCoeff()));
        CHECK(same_gain == gain);
      }
    }
    CHECK(worst < tolerance);
  }
}

TEST_CASE("the entries attended most are found in every row, whatever is visible") {
  const Index count = GENERATE(1, 3, 32, 1000);
  std::vector<TraceShape> cases = shapes();
  TraceShape sliding = cases[0];
  sliding.sliding_window = {23};
  sliding.position_step = 2;
  TraceShape level = cases[0];
  level.query_spread = 0;  // all entries attended alike: the oldest are taken
  TraceShape longer = cases[0];
  longer.prompt_length = 700;
  longer.length = 790;
  longer.query_spread = 5;
  cases.insert(cases.end(), {sliding, level, longer});
  for (const TraceShape& shape : cases) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer loaded(trace);
    const LayerData& layer = loaded.data();
    FutureMass mass;
    int wrong = 0;
    int compared = 0;
    for (const Tile& tile : attended_tiles(layer, 37, mass)) {
      const MostAttended most(layer, tile, count);
      const std::vector<models::EntryRange> visible = layer.group_visibility(tile.rows);
      for (int h = 0; h < shape.query_heads; ++h) {
        const int group = layer.geometry().group_size();
        const Matrix& probability = tile.heads[static_cast<std::size_t>(h / group)].probability;
        for (Index r = 0; r < tile.size(); ++r) {
          const Index column = (h % group) * tile.size() + r;
          const models::EntryRange range = visible[static_cast<std::size_t>(column)];
          std::vector<double> masses;
          for (Index j = 0; j < tile.entries; ++j) masses.push_back(probability(j, column));
          std::vector<std::int32_t> seen = all_rows(static_cast<std::int32_t>(range.last));
          seen.erase(seen.begin(), seen.begin() + range.first);
          std::vector<std::int32_t> expected = largest(masses, seen, static_cast<std::size_t>(count));
          const auto found = most.at(h, r);
          std::vector<std::int32_t> entries(found.begin(), found.end());
          std::sort(entries.begin(), entries.end());
          std::sort(expected.begin(), expected.end());
          wrong += entries != expected;
          ++compared;
        }
      }
    }
    CHECK(compared > 0);
    CHECK(wrong == 0);
  }
}

TEST_CASE("an entry is evicted prematurely from the row after its last one on") {
  const MemoryTrace trace = weighted_trace({1, 8, 2, 4, 1, 1, 1}, 4);
  const LoadedLayer loaded(trace);
  FutureMass mass;
  const std::vector<Tile> tiles = attended_tiles(loaded.data(), 8, mass);
  const CacheHead head = cache_heads(loaded.data(), Granularity::kv_head)[0];
  const MostAttended most(loaded.data(), tiles[0], 2);  // entries 1 and 3 in every row
  const std::vector<std::int32_t> last_row = {3, 4, 3, 5, never_evicted, never_evicted, never_evicted};
  Matrix shares(3, 1);
  most.evicted_by_row(tiles[0], last_row, head, shares);
  CHECK(shares(0, 0) == 0.0F);
  CHECK(shares(1, 0) == 0.5F);
  CHECK(shares(2, 0) == 1.0F);
}

TEST_CASE("with a placement, what a row does not attend is missing, and what comes back is not") {
  const MemoryTrace trace = weighted_trace({1, 8, 2, 4, 1, 1, 1}, 4);
  const LoadedLayer loaded(trace);
  FutureMass mass;
  const std::vector<Tile> tiles = attended_tiles(loaded.data(), 8, mass);
  const MostAttended most(loaded.data(), tiles[0], 2);  // entries 1 and 3 in every row
  CHECK(most.missing(0, 1, std::vector<std::int32_t>{0, 2, 4}) == 1.0F);
  CHECK(most.missing(0, 1, std::vector<std::int32_t>{0, 3, 4}) == 0.5F);
  CHECK(most.missing(0, 1, std::vector<std::int32_t>{1, 3}) == 0.0F);
}

TEST_CASE("entries that a tier gives back are not premature evictions") {
  TraceShape shape{.layers = 1, .prompt_length = 80, .length = 90};
  const MemoryTrace trace = random_trace(shape);
  const auto mean = [&](const std::string& policy) {
    const std::vector<float> shares = replayed(trace, policy, {"20"}).rows.at({0, 0}).premature_evictions;
    return std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size());
  };
  const double dropped = mean("knorm");
  CHECK(dropped > 0.2);
  CHECK(mean("knorm@host(page=4,recall=100)") == 0.0);
  const double some = mean("knorm@host(page=4,recall=5)");
  CHECK(some > 0.0);
  CHECK(some < dropped);
  CHECK(mean("knorm@rerotate") == Approx(dropped).margin(1e-9));
}
