// Does the timeline of a replay hold what lies where at every step, in the format that viewers read?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "analysis/replay_timeline.h"
#include "tests/support/trace_event_format.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::scratch;

namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

std::vector<ReplayTimeline> two_timelines() {
  ReplayTimeline placed{.trace = "a \"quoted\"\\trace\xff.h5",
                        .sequence = "000000",
                        .policy = "h2o(recent=2)@host",
                        .budget = "0.25",
                        .prompt_length = 40,
                        .kept_entries = 10,
                        .steps = {40, 41, 42},
                        .series = {{"resident_bytes", {100, 120, none}},
                                   {"stored_hbm_bytes", {90, 91, 92}},
                                   {"stored_host_bytes", {0, 16, 32}},
                                   {"recalled_host_bytes", {8, none, 0}},
                                   {"evictions_per_step", {0, 0.5, 2}},
                                   {"regret", {0.1, 0.2, 0.3}}}};
  ReplayTimeline plain = placed;
  plain.trace = "b.h5";
  plain.policy = "tova";
  plain.series = {{"resident_bytes", {1e6, 2e6, 3e6}}};
  return {placed, plain};
}

nlohmann::json written(const std::vector<ReplayTimeline>& timelines, const std::string& folder) {
  const std::filesystem::path path = scratch(folder) / "timeline.json";
  write_replay_timeline(path, timelines);
  std::ifstream stream(path);
  return test::trace_events({std::istreambuf_iterator<char>(stream), {}});
}

}  // namespace

TEST_CASE("counters, rows and cuts of every sequence and point stand where their step is") {
  std::map<std::string, std::vector<nlohmann::json>> of_first;
  int second = 0;
  for (const nlohmann::json& event : written(two_timelines(), "replay_timeline")) {
    if (event.at("pid") == 1) {
      of_first[event.at("name")].push_back(event);
    } else {
      CHECK(event.at("pid") == 2);
      ++second;
    }
  }
  CHECK(of_first.at("process_name")[0].at("args").at("name") ==
        "h2o(recent=2)@host at 0.25: sequence 000000 of a \"quoted\"\\trace\xEF\xBF\xBD.h5");
  CHECK(of_first.at("attended bytes").size() == 2);  // the third is not known
  CHECK(of_first.at("attended bytes")[1].at("ts") == 2000);
  CHECK(of_first.at("attended bytes")[1].at("args").at("bytes") == 120);
  REQUIRE(of_first.at("bytes at rest").size() == 3);
  CHECK(of_first.at("bytes at rest")[2].at("args") == nlohmann::json{{"hbm", 92}, {"host", 32}});
  CHECK(of_first.at("recalled bytes").size() == 2);
  CHECK(of_first.at("recalled bytes")[1].at("ts") == 3000);
  REQUIRE(of_first.at("row").size() == 3);
  CHECK(of_first.at("row")[2].at("args").at("row") == 42);
  CHECK(of_first.at("row")[2].at("dur") == 1000);
  REQUIRE(of_first.at("prompt cut").size() == 1);
  CHECK(of_first.at("prompt cut")[0].at("ts") == 0);
  CHECK(of_first.at("prompt cut")[0].at("args").at("kept_entries") == 10);
  REQUIRE(of_first.at("cut").size() == 2);  // after rows 41 and 42
  CHECK(of_first.at("cut")[0].at("ts") == 3000);
  CHECK(of_first.at("cut")[1].at("args").at("evicted_entries_per_cache_head") == 2);
  CHECK(of_first.size() == 8);  // and the names of tracks; what has no track is left out
  CHECK(second == 1 + 2 + 1 + 3 + 3);
}

TEST_CASE("a timeline of nothing is a valid file, and series of another length are refused") {
  CHECK(written({}, "replay_timeline_empty").empty());
  std::vector<ReplayTimeline> timelines = two_timelines();
  timelines[0].series[0].values.pop_back();
  CHECK_THROWS_AS(write_replay_timeline(scratch("replay_timeline_bad") / "t.json", timelines), Error);
  CHECK_THROWS_AS(write_replay_timeline("/nowhere/t.json", two_timelines()), Error);
}
