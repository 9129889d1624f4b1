// Do run files carry the sizes of caches, and do these become the profiles that one works out by hand?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "analysis/memory_profile.h"
#include "analysis/plan_eviction.h"
#include "analysis/run_file.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"
#include "traces/hdf5_handle.h"

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::MadeUpReplay;
using evictsim::test::scratch;
namespace hdf5 = evictsim::traces::hdf5;

namespace {

/// Two layers of two KV heads, a prompt of 100 tokens, rows 100, 110, ..., 170 sampled; 256 bytes per entry.
RecordedCache recorded(const std::string& policy, const std::string& budget,
                       const std::vector<std::vector<std::int32_t>>& kept, double growth) {
  RecordedCache cache;
  cache.row.policy = policy;
  cache.row.budget = budget;
  cache.row.prompt_length = 100;
  cache.row[Metric::output_error] = 0.25;
  cache.row[Metric::evictions_per_step] = 1 - growth;
  for (std::int32_t step = 100; step <= 170; step += 10) cache.steps.push_back(step);
  cache.kv_heads = 2;
  cache.entry_bytes = 256;
  for (const std::vector<std::int32_t>& heads : kept) {
    LayerSizes& layer = cache.layers.emplace_back();
    layer.kept = heads;
    for (const std::int32_t step : cache.steps) {
      for (const std::int32_t entries : heads) {
        layer.resident.push_back(entries + 1 + static_cast<std::int32_t>(growth * (step - 100)));
      }
    }
  }
  return cache;
}

double kept_of(const sim::CacheProfile& profile) {
  double sum = 0, weight = 0;
  for (const sim::CacheProfile::Heads& heads : profile.heads) {
    sum += heads.kept * static_cast<double>(heads.weight);
    weight += static_cast<double>(heads.weight);
  }
  return sum / weight;
}

}  // namespace

TEST_CASE("a run file gives back what heads kept and attended") {
  const std::filesystem::path path = scratch("round_trip") / "run.h5";
  const MadeUpReplay replay(5);
  {
    RunFile file(path, replay.plan, {});
    RunAccumulator accumulator(replay.plan, {{{}}}, {}, [&](SequenceResult&& result) { file.add(result); });
    replay.send(accumulator, {2, 0, 1}, 4);
    file.seal(true);
  }
  const std::vector<RecordedCache> caches = read_recorded_caches(path);
  REQUIRE(caches.size() == replay.points.size());
  for (std::size_t point = 0; point < caches.size(); ++point) {
    const RecordedCache& cache = caches[point];
    CHECK(cache.row.prompt_length == MadeUpReplay::prompt_length);
    CHECK(cache.kv_heads == 2);
    CHECK(cache.entry_bytes == 2 * 8 * 2);
    CHECK(cache.prompt_scored_entries == (point == 0 ? 0 : 240));
    REQUIRE(cache.steps == std::vector<std::int32_t>{40, 42, 45, 48, 51, 54, 57, 60});
    REQUIRE(cache.layers.size() == 3);
    for (std::size_t layer = 0; layer < 3; ++layer) {
      const LayerSizes& sizes = cache.layers[layer];
      CHECK_FALSE(sizes.placed);
      for (std::size_t head = 0; head < 2; ++head) {
        CHECK(sizes.kept[head] == static_cast<std::int32_t>(replay.points[point].kept[layer][head].size()));
        for (std::size_t sample = 0; sample < cache.steps.size(); ++sample) {
          const auto row = static_cast<std::size_t>(cache.steps[sample] - 40);
          CHECK(sizes.resident[sample * 2 + head] == replay.points[point].resident[layer][row * 2 + head]);
        }
      }
    }
  }
}

TEST_CASE("older run files say what to do, damaged and foreign ones are refused") {
  const std::filesystem::path folder = scratch("refused");
  const std::string path = (folder / "run.h5").string();
  const auto code_of = [&] {
    try {
      (void)read_recorded_caches(path);
    } catch (const Error& problem) {
      return problem.code();
    }
    return ErrorCode::interrupted;
  };
  CHECK(code_of() == ErrorCode::file_not_found);
  {
    const hdf5::Guard guard;
    const hdf5::Node root = hdf5::Node::create_file(path, path);
    root.set_attribute("format", std::string("evictsim-dump"));
  }
  CHECK(code_of() == ErrorCode::not_a_trace);
  {
    const hdf5::Guard guard;
    const hdf5::Node root = hdf5::Node::create_file(path, path);
    root.set_attribute("format", std::string("evictsim-run"));
    root.set_attribute("format_version", std::int64_t{1});
  }
  CHECK(code_of() == ErrorCode::missing_data);
  CHECK_THROWS_WITH(read_recorded_caches(path), Catch::Matchers::Contains("again"));
  {
    const hdf5::Guard guard;
    const hdf5::Node root = hdf5::Node::create_file(path, path);
    root.set_attribute("format", std::string("evictsim-run"));
    root.set_attribute("format_version", std::int64_t{1});
    (void)root.create_group("profile");
  }
  CHECK(code_of() != ErrorCode::interrupted);
}

TEST_CASE("shares scale with the prompt, and pages follow the longest head or each one") {
  const std::vector<RecordedCache> caches = {recorded("made", "0.4", {{20, 60}, {40, 40}}, 1)};
  const sim::CacheProfile by_head = memory_profiles(caches, PageRule::per_head).at(0);
  CHECK_FALSE(by_head.in_entries);
  CHECK(by_head.output_error == 0.25);
  CHECK(by_head.kv_heads == 4);
  CHECK(kept_of(by_head) == Approx(0.4));
  CHECK(by_head.heads.front().kept == 0.2);
  CHECK(by_head.heads.back().kept == 0.6);
  CHECK_FALSE(by_head.level);
  CHECK(by_head.growth == 1);
  CHECK_FALSE(by_head.attended);
  const sim::CacheProfile longest = memory_profiles(caches, PageRule::longest).at(0);
  CHECK(longest.kv_heads == 4);
  CHECK(kept_of(longest) == Approx(0.5));  // 60 and 40 of 100
  CHECK(longest.heads.front().kept == 0.4);
}

TEST_CASE("cuts in decode hold a level; budgets in entries are numbers of entries") {
  const sim::CacheProfile share =
      memory_profiles({recorded("made", "0.4", {{40, 40}, {40, 40}}, 0)}, PageRule::longest).at(0);
  REQUIRE(share.level);
  CHECK(*share.level == Approx(0.41));
  CHECK(share.growth == 0);
  const sim::CacheProfile entries =
      memory_profiles({recorded("made", "40", {{40, 40}, {40, 40}}, 0)}, PageRule::longest).at(0);
  CHECK(entries.in_entries);
  CHECK(kept_of(entries) == 40);
  CHECK(*entries.level == Approx(41));
  // A prompt below the budget is not evidence that its length is the limit; one above, kept whole, is kept at any
  // length.
  CHECK(kept_of(memory_profiles({recorded("made", "512", {{100, 100}}, 1)}, PageRule::longest).at(0)) == 512);
  CHECK(kept_of(memory_profiles({recorded("made", "40", {{100, 100}}, 1)}, PageRule::longest).at(0)) ==
        sim::CacheProfile::everything);
  CHECK(memory_profiles({recorded("made", "1", {{100, 100}, {100, 100}}, 1)}, PageRule::longest)
            .at(0)
            .keeps_everything());
}

TEST_CASE("placements bring their bytes, scans and recall along") {
  RecordedCache cache = recorded("tiered", "0.5", {{50, 50}, {50, 50}}, 1);
  for (LayerSizes& layer : cache.layers) {
    layer.placed = true;
    layer.resident.assign(layer.resident.size(), 30);  // attended
  }
  const double prompt_bytes = 100.0 * 4 * 256;
  cache.row[Metric::kept_bytes] = 0.625 * prompt_bytes;  // 50 entries and an eighth for digests
  cache.row[Metric::host_bytes] = 0.5 * prompt_bytes;
  cache.row[Metric::recall_bytes_per_step] = 0.1 * prompt_bytes;
  cache.row[Metric::scanned_bytes_per_step] = 0.136 * prompt_bytes;  // a tenth of a mean context of 136
  cache.row[Metric::scored_entries_per_step] = 4 * 20 + 400.0 / 71;
  cache.prompt_scored_entries = 400;
  const sim::CacheProfile profile = memory_profiles({cache}, PageRule::longest).at(0);
  CHECK(profile.stored_per_entry == 1);
  CHECK(profile.stored_share == Approx(0.125));
  CHECK(profile.host_share == Approx(0.5));
  CHECK(profile.recalled == Approx(0.1));
  CHECK(profile.scanned_share == Approx(0.1));
  CHECK(profile.scored == Approx(0.2));
  REQUIRE(profile.attended);
  CHECK(profile.attended->level == Approx(0.3));
  CHECK(profile.attended->growth == 0);
}

TEST_CASE("profiles are found by the value of a budget, and what is not there is answered with what is") {
  const auto profiles = memory_profiles({recorded("one", "0.5", {{50, 50}}, 1), recorded("one", "64", {{64, 64}}, 1),
                                         recorded("two", "0.5", {{50, 50}}, 1)},
                                        PageRule::longest);
  REQUIRE(profiles.size() == 3);
  CHECK(&find_profile(profiles, "one", "0.50", "run.h5") == &profiles[0]);
  CHECK(&find_profile(profiles, "one", "64.0", "run.h5") == &profiles[1]);
  CHECK_THROWS_WITH(find_profile(profiles, "three", "0.5", "run.h5"),
                    Catch::Matchers::Contains("one") && Catch::Matchers::Contains("two"));
  CHECK_THROWS_WITH(find_profile(profiles, "one", "0.25", "run.h5"),
                    Catch::Matchers::Contains("0.5") && Catch::Matchers::Contains("64"));
}

TEST_CASE("the frontier holds every row that no other one beats") {
  std::vector<PlanRow> rows(6);
  const std::vector<std::pair<double, double>> points = {{0, 100},   {0.1, 150}, {0.2, 140},
                                                         {0.3, 150}, {0.4, 200}, {0, 100}};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].output_error = points[i].first;
    rows[i].output_tokens_per_second = points[i].second;
  }
  PlanRow failed = rows[4];
  failed.status = "does not fit";
  failed.output_tokens_per_second = 1000;
  rows.push_back(failed);
  mark_frontier(rows, false);
  const std::vector<double> expected = {1, 1, 0, 0, 1, 1};
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(rows[i].frontier == expected[i]);
  CHECK(std::isnan(rows[6].frontier));

  // Predicted damage decides where all rows have it: now the fourth is better than the second, with as many tokens.
  for (PlanRow& row : rows) row.predicted_kl = 1 - row.output_error;
  rows[6].predicted_kl = PlanRow::none;
  mark_frontier(rows, false);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(rows[i].frontier == (i == 4 ? 1 : 0));
  rows[0].predicted_kl = PlanRow::none;
  mark_frontier(rows, false);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(rows[i].frontier == expected[i]);

  // An oracle that is best in both keeps nobody off.
  rows[3].policy = "oracle_mass";
  rows[3].output_error = -1;
  rows[3].output_tokens_per_second = 1000;
  mark_frontier(rows, false);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(rows[i].frontier == expected[i]);
}

TEST_CASE("recall and host bytes of a plan follow its requests") {
  sim::CacheProfile profile;
  profile.recalled = 0.1;
  profile.host_share = 0.5;
  sim::ServingResult result;
  for (const auto& [first, last] : {std::pair{0, 4}, std::pair{1, 3}, std::pair{4, 10}}) {
    sim::RequestRecord record;
    record.prompt_tokens = 100;
    record.generated_tokens = 11;
    record.first_token = first * sim::nanoseconds_per_second;
    record.finish = last * sim::nanoseconds_per_second;
    result.requests.push_back(record);
  }
  result.end = 10 * sim::nanoseconds_per_second;
  PlanRow row;
  row.host_bytes_peak = 7;
  fill_eviction(profile, result, 1000, false, row);
  CHECK(row.recall_bytes_per_second == Approx(3 * 10 * 10 * 1000 / 10.0));
  CHECK(row.host_bytes_peak == Approx(7 + 2 * 50 * 1000));
  row.host_bytes_peak = 7;  // tiers count what is in them
  fill_eviction(profile, result, 1000, true, row);
  CHECK(row.host_bytes_peak == 7);
}
