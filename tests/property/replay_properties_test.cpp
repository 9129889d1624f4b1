// Do results keep their order over budgets, and stay the same whatever else is replayed, on however many threads?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/memory_trace_replay.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

const std::string rank_once =
    "random,knorm,keydiff,lagkv(lag=16),snapkv(window=8),expected_attention,observed_attention,oracle_mass";
const std::string any = rank_once + ",adakv(snapkv(window=8)),pyramidkv(window=8),streaming_llm,window,h2o,tova,full";
const std::vector<std::string> budgets = {"1", "0.03", "2", "0.1", "7", "0.25", "0.5", "33", "60", "0.99"};

TraceShape shape_of(std::uint64_t seed) {
  TraceShape shape{.layers = 2, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 70, .length = 78};
  shape.seed = seed;
  if (seed % 2 == 1) shape.softcap = 4;
  return shape;
}

/// Largest difference of one point's results between two replays, relative to 1 or the value.
double distance(const CollectedRows& a, const CollectedRows& b) {
  double largest = a.rows == b.rows && a.resident == b.resident && a.evicted == b.evicted ? 0.0 : 1e9;
  const auto compare = [&](const auto& left, const auto& right) {
    if (left.size() != right.size()) largest = 1e9;
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      const auto x = static_cast<double>(left[i]);
      const auto y = static_cast<double>(right[i]);
      largest = std::max(largest, std::abs(x - y) / std::max({1.0, std::abs(x), std::abs(y)}));
    }
  };
  compare(a.retained_mass, b.retained_mass);
  compare(a.output_error, b.output_error);
  compare(a.dilution, b.dilution);
  compare(a.entropy, b.entropy);
  compare(a.regret, b.regret);
  compare(a.oracle_gain, b.oracle_gain);
  compare(a.premature_evictions, b.premature_evictions);
  compare(a.error_squared, b.error_squared);
  compare(a.output_squared, b.output_squared);
  return largest;
}

}  // namespace

TEST_CASE("a larger budget of a policy that ranks once keeps what a smaller one keeps, and retains no less mass") {
  const MemoryTrace trace = random_trace(shape_of(GENERATE(1U, 2U, 3U)));
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(rank_once), budgets_of(budgets));
  const ReplayCollector results = replayed(stored_list(trace), plan);
  int compared = 0;
  for (std::size_t small = 0; small < plan.points.size(); ++small) {
    for (std::size_t large = 0; large < plan.points.size(); ++large) {
      if (plan.points[small].policy != plan.points[large].policy) continue;
      if (plan.points[small].budget.entries(70) > plan.points[large].budget.entries(70)) continue;
      INFO(plan.policies[plan.points[small].policy].name << " " << plan.points[small].budget.text() << " in "
                                                         << plan.points[large].budget.text());
      for (std::size_t layer = 0; layer < 2; ++layer) {
        const auto& inner = results.cuts.at({small, layer}).kept;
        const auto& outer = results.cuts.at({large, layer}).kept;
        for (std::size_t head = 0; head < inner.size(); ++head) {
          REQUIRE(std::includes(outer[head].begin(), outer[head].end(), inner[head].begin(), inner[head].end()));
        }
        const auto& less = results.rows.at({small, layer}).retained_mass;
        const auto& more = results.rows.at({large, layer}).retained_mass;
        REQUIRE(less.size() == more.size());
        // The sums are of the same float32 numbers in double, rounded once to float32.
        for (std::size_t i = 0; i < less.size(); ++i) REQUIRE(more[i] >= less[i]);
        ++compared;
      }
    }
  }
  CHECK(compared > 500);
}

TEST_CASE("no policy keeps more than the oracle of its own counts, and what is attended most leaves only with a cut") {
  TraceShape shape = shape_of(GENERATE(12U, 13U));
  shape.sliding_window = {0, 31};
  const MemoryTrace trace = random_trace(shape);
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(any), budgets_of(budgets));
  const ReplayCollector results = replayed(stored_list(trace), plan, {.seed = 5});
  int with_regret = 0;
  int with_premature = 0;
  for (const auto& [key, rows] : results.rows) {
    const sim::PromptCut& cut = results.cuts.at(key);
    INFO(plan.policies[plan.points[key.first].policy].name << " at " << plan.points[key.first].budget.text());
    const std::size_t heads_per_cache = 6 / static_cast<std::size_t>(cut.cache_heads);
    for (std::size_t head = 0; head < cut.kept.size(); ++head) {
      double regret = 0;
      double gain = 0;
      for (std::size_t at = 0; at < rows.regret.size(); ++at) {
        if (at % 6 / heads_per_cache != head) continue;
        regret += static_cast<double>(rows.regret[at]);
        gain += static_cast<double>(rows.oracle_gain[at]);
      }
      // 24 float32 values below 1.
      CHECK(regret >= -24e-7);
      CHECK(gain >= -24e-7);
      CHECK(regret <= 24);
      if (cut.oracle_overlap[head] == 1.0) CHECK(regret <= 24e-7);
      with_regret += regret > 0.01;
    }
    const auto [least, most] = std::minmax_element(rows.premature_evictions.begin(), rows.premature_evictions.end());
    CHECK(*least >= 0);
    CHECK(*most <= 1);
    with_premature += *most > 0.2F;
    const bool uncut = plan.points[key.first].budget.unlimited() || key.second == 1;  // all, or a sliding window
    if (!uncut) continue;
    CHECK(*most == 0);
    for (const double overlap : cut.oracle_overlap) CHECK(overlap == 1.0);
    for (std::size_t at = 0; at < rows.regret.size(); ++at) CHECK((rows.regret[at] == 0 && rows.oracle_gain[at] == 0));
  }
  CHECK(with_regret > 100);
  CHECK(with_premature > 50);
}

TEST_CASE("the same bits on any number of threads and in every run") {
  TraceShape shape = shape_of(4);
  shape.layers = 5;
  shape.sequences = 2;
  const MemoryTrace trace = random_trace(shape);
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(any), budgets_of(budgets));
  const auto run = [&](int threads) {
    const sim::ReplayOptions options{.threads = threads, .seed = 3, .with_scores = true, .with_resident = true};
    return replayed(stored_list(trace), plan, options);
  };
  const ReplayCollector first = run(1);
  REQUIRE(first.finished_sequences == 2);
  REQUIRE(first.rows.size() == 5 * plan.points.size());
  for (const int threads : {1, 2, 4, 0}) CHECK(same_results(first, run(threads)));
}

TEST_CASE("a point's results do not depend on what else is in the plan") {
  const MemoryTrace trace = random_trace(shape_of(GENERATE(5U, 6U)));
  const auto readers = stored_list(trace);
  const auto everything = sim::ReplayPlan::of(policies::parse_policies(any), budgets_of(budgets));
  const ReplayCollector together = replayed(readers, everything);
  for (std::size_t point = 0; point < everything.points.size(); ++point) {
    if (point % 3 != 0) continue;  // a third of them, spread over policies and budgets
    sim::ReplayPlan alone;
    alone.policies = {everything.policies[everything.points[point].policy]};
    alone.points = {{0, everything.points[point].budget}};
    INFO(alone.policies[0].name << " at " << alone.points[0].budget.text());
    const ReplayCollector results = replayed(readers, alone);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      CHECK(results.cuts.at({0, layer}).kept == together.cuts.at({point, layer}).kept);
      // Sums over the same numbers in another order: float32 rounding.
      CHECK(distance(results.rows.at({0, layer}), together.rows.at({point, layer})) < 1e-6);
    }
  }
}

TEST_CASE("layers are replayed alone as among others") {
  TraceShape shape = shape_of(7);
  shape.layers = 4;
  const MemoryTrace trace = random_trace(shape);
  const auto readers = stored_list(trace);
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(any), budgets_of({"0.2"}));
  const ReplayCollector all = replayed(readers, plan);
  const ReplayCollector some = replayed(readers, plan, {.layers = {3, 1}});
  CHECK(some.start.layers == std::vector<int>{1, 3});
  for (std::size_t point = 0; point < plan.points.size(); ++point) {
    CHECK(same_rows(all.rows.at({point, 1}), some.rows.at({point, 0})));
    CHECK(same_rows(all.rows.at({point, 3}), some.rows.at({point, 1})));
  }
  CHECK_THROWS_AS(replayed(readers, plan, {.layers = {4}}), Error);
}

TEST_CASE("the seed moves random policies only") {
  const MemoryTrace trace = random_trace(shape_of(8));
  const auto readers = stored_list(trace);
  const auto plan = sim::ReplayPlan::of(policies::parse_policies("random,snapkv(window=8),h2o"), budgets_of({"0.2"}));
  const ReplayCollector one = replayed(readers, plan, {.seed = 1});
  const ReplayCollector two = replayed(readers, plan, {.seed = 2});
  CHECK(one.cuts.at({0, 0}).kept != two.cuts.at({0, 0}).kept);
  for (const std::size_t point : {1U, 2U}) CHECK(same_rows(one.rows.at({point, 0}), two.rows.at({point, 0})));
}

TEST_CASE("a causal policy's cut does not move when later rows do") {
  const MemoryTrace trace = random_trace(shape_of(9));
  MemoryTrace changed = trace;
  for (int layer = 0; layer < 2; ++layer) {
    for (std::int32_t row = 70; row < 78; ++row) {
      for (int component = 0; component < 8; ++component) {
        for (int head = 0; head < 2; ++head) {
          changed.key(layer, head, row, component) *= -3;
          changed.value(layer, head, row, component) += 10;
        }
        for (int head = 0; head < 6; ++head) changed.query(layer, head, row, component) *= -2;
      }
    }
  }
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(any), budgets_of(budgets));
  const sim::ReplayOptions options{.with_scores = true};
  ReplayCollector before = replayed(stored_list(trace), plan, options);
  ReplayCollector after = replayed(stored_list(changed), plan, options);
  bool oracle_moved = false;
  for (auto& [key, cut] : before.cuts) {
    sim::PromptCut& other = after.cuts.at(key);
    cut.oracle_overlap.clear();
    other.oracle_overlap.clear();
    if (plan.policies[plan.points[key.first].policy].is_oracle()) {
      oracle_moved = oracle_moved || !same_cut(cut, other);
    } else {
      CHECK(same_cut(cut, other));
    }
  }
  CHECK(oracle_moved);
}

TEST_CASE("a replay that is stopped says so and ends no sequence") {
  const auto readers = stored_list(random_trace(shape_of(10)));
  const auto plan = sim::ReplayPlan::of(policies::parse_policies("knorm"), budgets_of({"0.2"}));
  ReplayCollector collector;
  const std::atomic<bool> stop = true;
  try {
    sim::replay(readers, plan, {}, collector, stop);
    FAIL("was not stopped");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::interrupted);
  }
  CHECK(collector.finished_sequences == 0);
}

TEST_CASE("a useful set of no entries is refused") {
  const auto readers = stored_list(random_trace(shape_of(11)));
  const auto plan = sim::ReplayPlan::of(policies::parse_policies("knorm"), budgets_of({"0.2"}));
  CHECK_THROWS_AS(replayed(readers, plan, {.useful_entries = 0}), Error);
}
