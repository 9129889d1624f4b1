// Are kept keys attended as a cache attends that renumbers its entries from 0 and decodes on from there?
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "tests/support/placement_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;
using tests::PlacementWalk;

namespace {

/// A row as float64, moved from one position to another: back to before RoPE, then there.
std::vector<double> moved(const CacheDouble& cache, const models::Matrix& rows, std::int32_t row, int to) {
  std::vector<double> head(rows.row(row).data(), rows.row(row).data() + rows.cols());
  cache.rope().invert(std::span<double>(head), row);
  cache.rope().apply(std::span<double>(head), to);
  return head;
}

/// Output of the newest row over `entries` renumbered 0, 1, ..., the newest the last of them: formulas in float64.
std::vector<double> renumbered_output(const CacheDouble& cache, int query_head,
                                      const std::vector<std::int32_t>& entries) {
  const auto kv_head = static_cast<std::size_t>(cache.geometry().kv_head_of(query_head));
  const int last = static_cast<int>(entries.size()) - 1;
  const std::vector<double> query =
      moved(cache, cache.all_queries[static_cast<std::size_t>(query_head)], entries.back(), last);
  std::vector<double> output(query.size(), 0.0);
  double total = 0;
  for (int i = 0; i <= last; ++i) {
    const std::int32_t row = entries[static_cast<std::size_t>(i)];
    const std::vector<double> key = moved(cache, cache.all_keys[kv_head], row, i);
    double logit = 0;
    for (std::size_t c = 0; c < key.size(); ++c) logit += key[c] * query[c];
    const double weight = std::exp(cache.geometry().attention_scale * logit);
    total += weight;
    for (std::size_t c = 0; c < output.size(); ++c) {
      output[c] += weight * static_cast<double>(cache.all_values[kv_head](row, static_cast<Index>(c)));
    }
  }
  for (double& component : output) component /= total;
  return output;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

/// Keeps other entries in every head, with holes.
void keep_with_holes(CacheDouble& cache) {
  for (std::size_t head = 0; head < cache.resident.size(); ++head) {
    std::erase_if(cache.resident[head], [&](std::int32_t row) {
      return (row * row + static_cast<std::int32_t>(head)) % 5 == 0 || (row > 7 && row < 15);
    });
  }
}

}  // namespace

TEST_CASE("kept keys are attended at consecutive positions, the newest last") {
  const auto layout = GENERATE(traces::RopeLayout::half, traces::RopeLayout::interleaved);
  const double scaling = GENERATE(1.0, 1.3);
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .layout = layout, .attention_scaling = scaling});
  keep_with_holes(cache);
  PlacementWalk walk(cache, "snapkv@rerotate", 12);
  double moved_most = 0;
  for (int step = 0; step < 6; ++step) {
    if (step == 3) walk.cut_to_newest(9);  // a cut while decoding renumbers what is left
    const AttendedEntries attended = walk.step();
    for (int head = 0; head < 4; ++head) {
      const auto& entries = attended.rows[static_cast<std::size_t>(head)];
      CHECK(entries == cache.resident[static_cast<std::size_t>(head / 2)]);
      const std::vector<double> ours = walk.output(head, attended);
      CHECK(largest_difference(ours, renumbered_output(cache, head, entries)) < 1e-6);
      // Without turning, the holes are in the distances.
      const std::vector<double> weights = models::reference_weights(
          walk.view.query(head), walk.view.keys(head / 2), entries, {.scale = cache.geometry().attention_scale});
      moved_most = std::max(
          moved_most, largest_difference(ours, models::reference_output(weights, walk.view.values(head / 2), entries)));
    }
  }
  CHECK(moved_most > 1e-2);
}

TEST_CASE("entries without holes keep their distances: nothing changes") {
  CacheDouble cache({});
  for (auto& rows : cache.resident) rows.erase(rows.begin(), rows.begin() + 10);
  PlacementWalk walk(cache, "snapkv@rerotate", 14);
  const AttendedEntries attended = walk.step();
  for (int head = 0; head < 4; ++head) {
    const auto& entries = attended.rows[static_cast<std::size_t>(head)];
    const std::vector<double> weights = models::reference_weights(walk.view.query(head), walk.view.keys(head / 2),
                                                                  entries, {.scale = cache.geometry().attention_scale});
    const std::vector<double> recorded = models::reference_output(weights, walk.view.values(head / 2), entries);
    CHECK(largest_difference(walk.output(head, attended), recorded) < 1e-6);
  }
}
