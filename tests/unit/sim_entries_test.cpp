// Are the losses of every entry and the masses of token classes those computed from q, k and what was resident?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "tests/support/memory_trace_exact.h"
#include "tests/support/memory_trace_replay.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

constexpr double tolerance = 3e-6;  // sums of at most 60 float32 probabilities
constexpr int useful_count = 5, sinks = 3;

const std::string rank_once = "snapkv(window=4),adakv(knorm),snapkv(window=2,group=none)";
const std::string walking = "tova,h2o(recent=2),streaming_llm(sinks=2)";
const std::string placed =
    "h2o(recent=2)@host(page=2,recall=2),quest(page=4,skip_layers=0,fewest_pages=1),tova@topk_per_query";

TraceShape base_shape() {
  return {.layers = 2, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 40, .length = 52};
}

std::vector<TraceShape> shapes() {
  TraceShape evidence = base_shape();
  evidence.evidence = {{1, 7}, {30, 31}, {41, 43}};  // some are sinks, some decoded
  TraceShape sliding = base_shape();
  sliding.sliding_window = {17, 0};
  TraceShape steep = base_shape();
  steep.query_spread = 60;  // probabilities of many entries underflow
  TraceShape single_group = base_shape();
  single_group.query_heads = 2;
  return {base_shape(), evidence, sliding, steep, single_group};
}

sim::ReplayOptions all_options() {
  sim::ReplayOptions options;
  options.useful_entries = useful_count;
  options.sink_entries = sinks;
  options.with_entries = options.with_resident = options.with_stored = true;
  return options;
}

/// What a query head attends at each decode row: [R][T], from the cut after the prompt and the rows recorded. All rows
/// have queries.
std::vector<std::vector<bool>> attended_rows(const ReplayCollector& results, ReplayCollector::Key key, int query_head) {
  const sim::PromptCut& cut = results.cuts.at(key);
  const CollectedRows& rows = results.rows.at(key);
  const auto head = static_cast<std::size_t>(query_head * cut.cache_heads / results.start.query_heads);
  const std::int32_t length = results.start.length;
  std::vector<bool> now = resident_set(cut.kept[head], results.start.prompt_length, length);
  std::vector<std::vector<bool>> attended;
  for (std::size_t r = 0; r < rows.rows.size(); ++r) {
    attended.push_back(now);
    if (rows.resident_rows.empty()) continue;
    for (std::int32_t j = 0; j <= rows.rows[r]; ++j) {
      now[static_cast<std::size_t>(j)] =
          rows.resident_rows[head][r * static_cast<std::size_t>(length) + static_cast<std::size_t>(j)] != 0;
    }
  }
  return attended;
}

/// The entries with the largest weight, older first among equals.
std::set<std::int32_t> most_attended(const std::vector<double>& weights, std::int32_t row) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(row) + 1);
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) {
    return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)];
  });
  rows.resize(useful_count);
  return {rows.begin(), rows.end()};
}

/// Attention `weights` by class, as docs/metrics.md defines them; `distractors`: rows of their spans, empty for none.
std::array<double, 4> by_class(const std::vector<double>& weights, const std::vector<std::int32_t>& useful,
                               std::int32_t prompt_length, const std::set<std::int32_t>& distractors) {
  std::array<double, 4> masses = {};
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(weights.size()); ++j) {
    const double weight = weights[static_cast<std::size_t>(j)];
    if (j < sinks) {
      masses[0] += weight;
    } else if (std::find(useful.begin(), useful.end(), j) != useful.end()) {
      masses[1] += weight;
    } else if (distractors.empty() ? j < prompt_length : distractors.contains(j)) {
      masses[2] += weight;
    } else if (j >= prompt_length) {
      masses[3] += weight;
    }
  }
  return masses;
}

double worst_difference(const std::vector<double>& found, const std::vector<double>& expected) {
  double worst = found.size() == expected.size() ? 0 : 1e9;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    worst = std::max(worst, std::abs(found[i] - expected[i]));
  }
  return worst;
}

/// Compares one point in one layer with the definitions.
void check_point(const MemoryTrace& trace, const ReplayCollector& results, ReplayCollector::Key key,
                 const std::set<std::int32_t>& distractors) {
  const ExactLayer exact(trace, key.second);
  const std::vector<std::int32_t> rows = exact.decode_rows();
  const int query_heads = trace.header.num_query_heads;
  const auto length = static_cast<std::size_t>(exact.length());
  const auto& spans = trace.sequences[0].info.spans;
  std::vector<double> lost(length, 0.0), premature(length, 0.0);
  const double places = static_cast<double>(rows.size()) * query_heads;
  double worst_class = 0;
  for (int h = 0; h < query_heads; ++h) {
    const auto attended = attended_rows(results, key, h);
    std::vector<double> attention(length, 0.0);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const std::vector<double> full = exact.weights(h, rows[r]);
      const std::vector<double> kept = exact.weights(h, rows[r], attended[r]);
      const std::set<std::int32_t> most = most_attended(full, rows[r]);
      for (std::size_t j = 0; j < length; ++j) {
        attention[j] += full[j] / static_cast<double>(rows.size());
        if (attended[r][j]) continue;
        lost[j] += full[j] / places;
        // Equal weights of nothing, where float32 has underflowed, may be in any order.
        if (most.contains(static_cast<std::int32_t>(j))) premature[j] += 1 / places;
      }
      std::vector<std::int32_t> useful = exact.useful(h, rows[r], rows, useful_count);
      if (spans.contains("evidence")) {
        useful.clear();
        for (const traces::Span& span : spans.at("evidence")) {
          for (std::int32_t j = span.first; j < span.last; ++j) useful.push_back(j);
        }
      }
      const auto before = by_class(full, useful, exact.prompt_length(), distractors);
      const auto after = by_class(kept, useful, exact.prompt_length(), distractors);
      const std::size_t place = r * static_cast<std::size_t>(query_heads) + static_cast<std::size_t>(h);
      for (std::size_t kind = 0; kind < 4; ++kind) {
        const double found_before = results.full.at(key.second).class_mass[kind][place];
        const double found_after = results.rows.at(key).class_mass[kind][place];
        worst_class =
            std::max({worst_class, std::abs(found_before - before[kind]), std::abs(found_after - after[kind])});
        REQUIRE(std::isfinite(found_before + found_after));
      }
    }
    CHECK(worst_difference(results.full_cache_entries.at(key.second).attention[static_cast<std::size_t>(h)],
                           attention) < tolerance);
  }
  CHECK(worst_class < 2e-5);
  CHECK(worst_difference(results.lost_entries.at(key).lost_mass, lost) < tolerance);
  CHECK(worst_difference(results.lost_entries.at(key).premature_evictions, premature) < 1e-9);
}

double mean(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("losses by entry and masses by class equal those of the definitions") {
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    for (const std::string& policies : {rank_once, walking}) {
      const ReplayCollector results = replayed(trace, policies, {"0.2", "0.6", "1"}, all_options());
      REQUIRE(results.failed_policies.empty());
      REQUIRE(results.rows.size() == 9 * 2);
      for (const auto& [key, rows] : results.rows) {
        CAPTURE(policies, key.first, key.second, shape.query_spread, shape.evidence.size());
        // At this spread weights tie at 0 in float32, and the order of what is attended most is not told.
        if (shape.query_spread > 10) continue;
        check_point(trace, results, key, {});
      }
    }
  }
}

TEST_CASE("distractors are the tokens of their spans where the trace has them") {
  TraceShape shape = base_shape();
  shape.evidence = {{10, 12}};
  MemoryTrace trace = random_trace(shape);
  trace.sequences[0].info.spans["distractor"] = {{1, 5}, {11, 20}, {44, 46}};
  std::set<std::int32_t> distractors;
  for (const traces::Span& span : trace.sequences[0].info.spans["distractor"]) {
    for (std::int32_t j = span.first; j < span.last; ++j) distractors.insert(j);
  }
  for (const std::string& policies : {rank_once, walking}) {
    const ReplayCollector results = replayed(trace, policies, {"0.4"}, all_options());
    for (const auto& [key, rows] : results.rows) check_point(trace, results, key, distractors);
  }
}

TEST_CASE("what entries lose adds up to the mass lost and the premature evictions, placements included") {
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const ReplayCollector results =
        replayed(trace, rank_once + "," + walking + "," + placed, {"0.2", "0.7"}, all_options());
    REQUIRE(results.failed_policies.empty());
    REQUIRE(results.lost_entries.size() == 9 * 2 * 2);
    for (const auto& [key, entries] : results.lost_entries) {
      CAPTURE(key.first, key.second, shape.query_spread);
      const CollectedRows& rows = results.rows.at(key);
      const double lost = std::accumulate(entries.lost_mass.begin(), entries.lost_mass.end(), 0.0);
      CHECK(lost == Approx(1 - mean(rows.retained_mass)).margin(2e-6));
      const double premature =
          std::accumulate(entries.premature_evictions.begin(), entries.premature_evictions.end(), 0.0);
      CHECK(premature == Approx(useful_count * mean(rows.premature_evictions)).margin(1e-6));
      // With the useful set of every row known, the classes leave nothing out.
      for (std::size_t place = 0; place < rows.retained_mass.size(); ++place) {
        double all = 0;
        for (const std::vector<float>& masses : rows.class_mass) all += static_cast<double>(masses[place]);
        CHECK(all == Approx(1).margin(2e-5));
      }
    }
    for (const auto& [layer, entries] : results.full_cache_entries) {
      for (const std::vector<double>& attention : entries.attention) {
        CHECK(std::accumulate(attention.begin(), attention.end(), 0.0) == Approx(1).margin(2e-6));
      }
      for (const std::vector<double>& most : entries.attended_most) {
        CHECK(std::accumulate(most.begin(), most.end(), 0.0) == Approx(useful_count));
      }
    }
  }
}

TEST_CASE("bytes at rest are told after every row, and a log on the host grows by what is written to it") {
  const MemoryTrace trace = random_trace(base_shape());
  const ReplayCollector results = replayed(trace, "h2o(recent=2)@host(page=2,recall=2),tova", {"0.3"}, all_options());
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const CollectedRows& rows = results.rows.at({0, layer});
    REQUIRE(rows.stored.size() == rows.rows.size());
    double on_host = (*results.cuts.at({0, layer}).stored)[policies::Tier::host];
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      // What is cut after a row is logged at once, and counted as written at the row that follows.
      on_host += rows.evicted[2 * r] * 8 * 2 * 4 + rows.evicted[2 * r + 1] * 8 * 2 * 4;
      CHECK(rows.stored[r][policies::Tier::host] == on_host);
      if (r + 1 < rows.rows.size()) {
        CHECK(rows.stored[r][policies::Tier::host] - (r == 0
                                                          ? (*results.cuts.at({0, layer}).stored)[policies::Tier::host]
                                                          : rows.stored[r - 1][policies::Tier::host]) ==
              rows.traffic[r + 1].written[policies::Tier::host]);
      }
    }
    CHECK(results.rows.at({1, layer}).stored.empty());
  }
}

TEST_CASE("entries and classes are the same at any number of threads, and not reported unless asked for") {
  const MemoryTrace trace = random_trace(base_shape());
  sim::ReplayOptions options = all_options();
  const std::string policies = rank_once + "," + walking + "," + placed;
  options.threads = 1;
  const ReplayCollector once = replayed(trace, policies, {"0.2", "0.6"}, options);
  options.threads = 3;
  CHECK(same_results(once, replayed(trace, policies, {"0.2", "0.6"}, options)));
  const ReplayCollector quiet = replayed(trace, policies, {"0.2", "0.6"});
  CHECK(quiet.lost_entries.empty());
  CHECK(quiet.full_cache_entries.empty());
  options.sink_entries = -1;
  CHECK_THROWS_AS(replayed(trace, policies, {"0.2"}, options), Error);
}
