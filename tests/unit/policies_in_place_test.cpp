// Do codes and merges in place change keys and values as their formulas say, and take the bytes they say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/kvpress.h"
#include "tests/support/placement_double.h"
#include "traces/half.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;
using tests::PlacementWalk;

namespace {

constexpr CacheShape shape = {.prompt = 48, .length = 60};
constexpr double entry_bytes = 2 * 8 * 2;  // k and v of 8 components of 2 bytes

double half(double value) { return traces::half_to_float(traces::float_to_half(static_cast<float>(value))); }

/// KIVI's formula on a group of numbers.
std::vector<double> quantised(const std::vector<double>& numbers, int bits) {
  const double top = std::pow(2.0, bits) - 1;
  const double zero = half(*std::min_element(numbers.begin(), numbers.end()));
  const double scale = half(
      (*std::max_element(numbers.begin(), numbers.end()) - *std::min_element(numbers.begin(), numbers.end())) / top);
  std::vector<double> result;
  for (const double number : numbers) {
    result.push_back(std::clamp(std::nearbyint((number - zero) / scale), 0.0, top) * scale + zero);
  }
  return result;
}

/// Leaves the `count` newest entries of every head hot.
void cut(CacheDouble& cache, Index count) {
  for (auto& rows : cache.resident) rows.erase(rows.begin(), rows.end() - count);
}

double difference(const models::MatrixView& a, const models::MatrixView& b, Index row) {
  return static_cast<double>((a.row(row) - b.row(row)).cwiseAbs().maxCoeff());
}

double norm(const models::Matrix& matrix, Index row) { return matrix.row(row).cast<double>().norm(); }
double cosine(const models::Matrix& matrix, Index a, Index b) {
  return matrix.row(a).cast<double>().dot(matrix.row(b).cast<double>()) / (norm(matrix, a) * norm(matrix, b));
}

}  // namespace

TEST_CASE("nothing cut is exact, whatever the code") {
  for (const char* policy : {"kivi", "kivi(bits=1)", "kvquant", "merging", "kvmerge", "cam", "think(ratio=0)"}) {
    INFO(policy);
    CacheDouble cache(shape);
    PlacementWalk walk(cache, policy, 48);
    for (int step = 0; step < 3; ++step) {
      const AttendedEntries attended = walk.step();
      for (int head = 0; head < 4; ++head) CHECK(walk.output(head, attended) == walk.full_output(head));
      CHECK(attended.traffic.misses == 0);
      CHECK(attended.traffic.hits == 2 * cache.seen());
      CHECK(attended.traffic.recalled[Tier::host] == 0);
    }
  }
}

TEST_CASE("kivi codes keys per channel in full groups of tokens, values per token in groups of channels") {
  for (const int bits : {2, 4}) {
    CacheDouble cache(shape);
    cut(cache, 8);  // 40 cold: two groups of 16 and 8 more
    PlacementWalk walk(cache, "kivi(bits=" + std::to_string(bits) + ",group=16)", 8);
    // Keys: 16 codes and 4 bytes per channel and group; values: 8 codes and 4 bytes per token.
    const double codes = 2 * 8 * (16 * bits / 8 + 4) + 40 * (8 * bits / 8 + 4);
    const double exact = 16 * entry_bytes / 2 + 8 * entry_bytes / 2;
    CHECK(walk.placement->stored(walk.view)[Tier::hbm] == 2 * (codes + exact));
    const AttendedEntries attended = walk.step();
    CHECK(attended.rows[0].size() == 49);
    for (int head = 0; head < 2; ++head) {
      const auto keys = walk.placement->attended_keys(walk.view, head);
      const auto values = walk.placement->attended_values(walk.view, head);
      const models::Matrix& exact_keys = cache.all_keys[static_cast<std::size_t>(head)];
      const models::Matrix& exact_values = cache.all_values[static_cast<std::size_t>(head)];
      for (Index group = 0; group < 2; ++group) {
        for (Index c = 0; c < 8; ++c) {
          std::vector<double> channel;
          for (Index i = 0; i < 16; ++i) channel.push_back(static_cast<double>(exact_keys(group * 16 + i, c)));
          const std::vector<double> expected = quantised(channel, bits);
          for (Index i = 0; i < 16; ++i) {
            CHECK(keys(group * 16 + i, c) == static_cast<float>(expected[static_cast<std::size_t>(i)]));
          }
        }
      }
      for (Index row = 32; row < 49; ++row) CHECK(keys.row(row) == exact_keys.row(row));
      for (Index row = 0; row < 40; ++row) {
        std::vector<double> value;
        for (Index c = 0; c < 8; ++c) value.push_back(static_cast<double>(exact_values(row, c)));
        const std::vector<double> expected = quantised(value, bits);
        for (Index c = 0; c < 8; ++c)
          CHECK(values(row, c) == static_cast<float>(expected[static_cast<std::size_t>(c)]));
      }
      for (Index row = 40; row < 49; ++row) CHECK(values.row(row) == exact_values.row(row));
    }
    walk.cut_to_newest(1);
    CHECK(walk.step().traffic.written[Tier::hbm] == 2 * (8 * (16 * bits / 8 + 4) + 8 * (8 * bits / 8 + 4)));
  }
}

TEST_CASE("kivi leaves the newest tokens exact where a residual says so") {
  CacheDouble cache(shape);
  cut(cache, 1);
  PlacementWalk walk(cache, "kivi(bits=2,group=4,residual=20)", 1);
  walk.step();
  const auto values = walk.placement->attended_values(walk.view, 0);
  CHECK(difference(values, walk.view.values(0), 28) > 0);
  for (Index row = 29; row < 49; ++row) CHECK(difference(values, walk.view.values(0), row) == 0);
}

TEST_CASE("kvquant keeps first tokens and outliers, and its error falls with its bits") {
  double last = 1e9;
  for (const int bits : {2, 3, 5, 8}) {
    CacheDouble cache(shape);
    cache.all_keys[0](10, 3) = 50;  // before RoPE not one channel's alone, but far outside whatever the rotation
    cache.all_values[0](20, 5) = -40;
    cut(cache, 8);
    PlacementWalk walk(cache, "kvquant(bits=" + std::to_string(bits) + ",outliers=0.13)", 8);
    walk.step();
    const auto keys = walk.placement->attended_keys(walk.view, 0);
    const auto values = walk.placement->attended_values(walk.view, 0);
    CHECK(difference(keys, walk.view.keys(0), 0) == 0);
    CHECK(difference(values, walk.view.values(0), 0) == 0);
    CHECK(values(20, 5) == Approx(-40).epsilon(1e-3));  // an outlier, as float16
    CHECK((keys.row(10) - walk.view.keys(0).row(10)).norm() < 2);
    double error = 0;
    for (Index row = 1; row < 40; ++row) {
      error += static_cast<double>((values.row(row) - walk.view.values(0).row(row)).squaredNorm());
      error += static_cast<double>(
          (walk.placement->attended_keys(walk.view, 1).row(row) - walk.view.keys(1).row(row)).squaredNorm());
    }
    CHECK(error > 0);
    CHECK(error < last);
    last = error;
    for (Index row = 40; row < 49; ++row) CHECK(difference(keys, walk.view.keys(0), row) == 0);
  }
  // 39 coded tokens of two heads without outliers: codes and an outlier count each, two bounds beside a value; then
  // the levels of keys and of values, and two bounds for each of 16 channels.
  CacheDouble cache(shape);
  cut(cache, 8);
  PlacementWalk walk(cache, "kvquant(bits=3,outliers=0)", 8);
  CHECK(walk.placement->stored(walk.view)[Tier::hbm] ==
        2 * (9 * entry_bytes + 39 * ((3 + 2) + (3 + 2 + 4))) + 2 * 16 + 16 * 4);
}

TEST_CASE("think drops the channels with the least product of mean squares, in the prompt only") {
  CacheDouble cache(shape);
  PlacementWalk walk(cache, "think(ratio=0.4,window=7)", 24);
  walk.step();
  for (int head = 0; head < 2; ++head) {
    std::vector<std::pair<double, Index>> scores;
    for (Index c = 0; c < 8; ++c) {
      double of_queries = 0, of_keys = 0;
      for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
        for (Index row = 41; row < 48; ++row) {
          of_queries += std::pow(cache.all_queries[static_cast<std::size_t>(query_head)](row, c), 2) / 14;
        }
      }
      for (Index row = 0; row < 48; ++row) {
        of_keys += std::pow(cache.all_keys[static_cast<std::size_t>(head)](row, c), 2) / 48;
      }
      scores.emplace_back(of_queries * of_keys, c);
    }
    std::sort(scores.begin(), scores.end());
    models::Matrix expected = cache.all_keys[static_cast<std::size_t>(head)].topRows(49);
    for (std::size_t i = 0; i < 3; ++i) expected.col(scores[i].second).head(48).setZero();  // int(8 * 0.4)
    const auto keys = walk.placement->attended_keys(walk.view, head);
    for (Index row = 0; row < 49; ++row) CHECK(keys.row(row) == expected.row(row));
  }
  CacheDouble other(shape);
  PlacementWalk stored(other, "think(ratio=0.5)", 24);
  CHECK(stored.placement->stored(stored.view)[Tier::hbm] == 2 * (48 * (4 + 8) * 2 + 1));
  CHECK(press_to_policy("ThinKPress(0.5)") == "think(ratio=0.5,window=32)");
}

TEST_CASE("merging folds evicted values into the kept one with the most similar key") {
  for (const double fraction : {1.0, 0.5}) {
    CacheDouble cache(shape);
    for (auto& rows : cache.resident) std::erase_if(rows, [](std::int32_t row) { return row % 3 != 0; });
    PlacementWalk walk(cache, "merging(similarity_threshold=0.2,merge_fraction=" + std::to_string(fraction) + ")", 16);
    walk.step();
    for (int head = 0; head < 2; ++head) {
      const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head)];
      const models::Matrix& exact = cache.all_values[static_cast<std::size_t>(head)];
      std::vector<std::pair<double, std::pair<Index, Index>>> pairs;  // cosine, evicted, target
      for (Index row = 0; row < 48; ++row) {
        if (row % 3 == 0) continue;
        Index target = 0;
        for (Index kept = 0; kept < 48; kept += 3) {
          if (cosine(keys, row, kept) > cosine(keys, row, target)) target = kept;
        }
        pairs.push_back({cosine(keys, row, target), {row, target}});
      }
      std::sort(pairs.rbegin(), pairs.rend());
      // Of 32 the quantile at 0.5 lies between the 16th and the 17th.
      if (fraction < 1) pairs.resize(16);
      models::MatrixDouble sums = exact.cast<double>();
      std::vector<double> weights(48, 1.0);
      for (const auto& [similarity, pair] : pairs) {
        if (similarity < 0.2) continue;
        const double own = norm(exact, pair.first);
        const double weight = similarity * own / (own + norm(exact, pair.second) + 1e-6);
        sums.row(pair.second) += weight * exact.row(pair.first).cast<double>();
        weights[static_cast<std::size_t>(pair.second)] += weight;
      }
      const auto values = walk.placement->attended_values(walk.view, head);
      for (Index kept = 0; kept < 48; kept += 3) {
        for (Index c = 0; c < 8; ++c) {
          CHECK(values(kept, c) == Approx(sums(kept, c) / weights[static_cast<std::size_t>(kept)]).margin(1e-6));
        }
      }
      CHECK(walk.placement->attended_keys(walk.view, head) == walk.view.keys(head));
    }
    CHECK(walk.placement->stored(walk.view)[Tier::hbm] == 2 * 17 * entry_bytes);
  }
  CHECK(parse_policy("kvpress:MergingPress(SnapKVPress(0.5),merge_fraction=0.75)").expansion ==
        parse_policy("snapkv(budget=0.5)@merging(merge_fraction=0.75)").expansion);
}

TEST_CASE("cam spreads an evicted value over the kept entries behind it when its attention exceeds theirs") {
  CacheDouble cache(CacheShape{.query_heads = 1, .kv_heads = 1, .prompt = 6, .length = 12});
  // The next query looks at key 2 alone, so that entry 2 has all attention and merges for certain; the one after it at
  // itself.
  cache.all_keys[0].setZero();
  cache.all_keys[0](2, 0) = 100;
  cache.all_keys[0](7, 0) = 100;
  cache.all_queries[0].setZero();
  cache.all_queries[0].col(0).setConstant(100);
  PlacementWalk walk(cache, "cam(merge_budget=2)", 6);
  walk.step();
  cache.resident[0] = {0, 1, 3, 4, 5, 6};
  walk.placement->cut(walk.view);
  const models::Matrix& exact = cache.all_values[0];
  const auto values = walk.placement->attended_values(walk.view, 0);
  for (Index c = 0; c < 8; ++c) {
    CHECK(values(3, c) == Approx(exact(3, c) + exact(2, c) / 2).margin(1e-6));
    CHECK(values(4, c) == Approx(exact(4, c) + exact(2, c) / 2).margin(1e-6));
    CHECK(values(5, c) == exact(5, c));
    CHECK(values(1, c) == exact(1, c));
  }
  // Entry 1, the next to go, has no attention and so never merges.
  walk.step();
  cache.resident[0] = {0, 3, 4, 5, 6, 7};
  walk.placement->cut(walk.view);
  const auto later = walk.placement->attended_values(walk.view, 0);
  for (Index c = 0; c < 8; ++c) CHECK(later(3, c) == Approx(exact(3, c) + exact(2, c) / 2).margin(1e-6));
}

TEST_CASE("cam merges no more than tokens have come since the last cut, and nothing at the prompt's") {
  CacheDouble cache(CacheShape{.query_heads = 1, .kv_heads = 1, .prompt = 8, .length = 12});
  cache.all_keys[0].setZero();  // every entry gets the same attention: probabilities of one
  cache.resident[0] = {2, 3, 4, 5, 6, 7};
  PlacementWalk walk(cache, "cam(merge_budget=1)", 6);
  CHECK(walk.placement->attended_values(walk.view, 0) == walk.view.values(0));
  walk.step();
  cache.resident[0] = {4, 6, 7, 8};  // 2, 3 and 5 go after one token: the latest of equals merges
  walk.placement->cut(walk.view);
  const auto values = walk.placement->attended_values(walk.view, 0);
  const models::Matrix& exact = cache.all_values[0];
  CHECK(values.row(4) == exact.row(4));
  CHECK(values(6, 1) == Approx(exact(6, 1) + exact(5, 1)).margin(1e-6));
}

TEST_CASE("kvmerge mixes similar neighbours and leaves others alone") {
  CacheDouble cache(CacheShape{.query_heads = 1, .kv_heads = 1, .prompt = 6, .length = 8});
  models::Matrix& keys = cache.all_keys[0];
  models::Matrix& exact = cache.all_values[0];
  keys.setZero();
  keys.col(0).setConstant(1);  // all alike
  keys.row(4).setZero();
  keys(4, 1) = 1;  // at a right angle to its neighbours
  keys.row(1) *= 2;
  keys(2, 2) = keys(3, 2) = 1;  // nearer to each other than to 0
  cache.resident[0] = {0, 3, 5};
  PlacementWalk walk(cache, "kvmerge(similarity_threshold=0.5)", 3);
  const auto values = walk.placement->attended_values(walk.view, 0);
  const auto changed = walk.placement->attended_keys(walk.view, 0);
  // Entry 1 joins 0 at distance 1: sigma = 1 / sqrt(2), weight exp(-1). Entry 2 joins 3 at distance 0: weight 1.
  const double weight = std::exp(-1.0);
  for (Index c = 0; c < 8; ++c) {
    CHECK(values(0, c) == Approx((exact(0, c) + weight * exact(1, c)) / (1 + weight)).margin(1e-6));
    CHECK(values(3, c) == Approx((exact(3, c) + exact(2, c)) / 2).margin(1e-6));
    CHECK(values(5, c) == exact(5, c));
  }
  CHECK(changed(0, 0) == Approx((1 + 2 * weight) / (1 + weight)));
  CHECK(changed(3, 0) == Approx(1));
  CHECK(changed.row(5) == keys.row(5));
}
