// Do the files of `evictsim plan` hold what happened: rows of requests, the timeline, plan.h5?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/cli/program.h"
#include "tests/support/h5_file.h"
#include "tests/support/trace_event_format.h"
#include "traces/checksum.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

const Arguments plan = {"plan", "-m", "llama-3.1-8b", "-g", "rtx-4090"};

Arguments with(Arguments words, const Arguments& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

}  // namespace

TEST_CASE("rows of requests give the figures of the plan's row") {
  const std::filesystem::path folder = scratch("requests");
  const std::string csv = (folder / "plan.csv").string(), requests = (folder / "requests.csv").string();
  const Outcome outcome =
      run(folder, with(plan, {"-w", "poisson", "--rate", "1,3", "--output-tokens", "lognormal(mean=100,cv=1)",
                              "--requests-count", "200", "--csv", csv, "--requests", requests}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(csv);
  const auto all = read_csv(requests);
  REQUIRE(rows.size() == 2);
  REQUIRE(all.size() == 400);
  for (std::size_t row = 0; row < 2; ++row) {
    std::vector<double> ttft, tpot, e2e;
    double output = 0, end = 0, begin = 1e9;
    for (const auto& request : all) {
      if (request.at("row") != std::to_string(row)) continue;
      CHECK(request.at("status") == "completed");
      CHECK(std::stod(request.at("arrival")) < std::stod(request.at("scheduled")));
      CHECK(std::stod(request.at("scheduled")) < std::stod(request.at("first_token")));
      ttft.push_back(std::stod(request.at("ttft")));
      e2e.push_back(std::stod(request.at("e2e")));
      if (!request.at("tpot").empty()) tpot.push_back(std::stod(request.at("tpot")));
      output += std::stod(request.at("output_tokens"));
      begin = std::min(begin, std::stod(request.at("arrival")));
      end = std::max(end, std::stod(request.at("finish")));
    }
    REQUIRE(ttft.size() == 200);
    const auto figure = [&](const char* column) { return std::stod(rows[row].at(column)); };
    CHECK(figure("ttft_p99") == Approx(quantile(ttft, 0.99)).epsilon(1e-12));
    CHECK(figure("tpot_p50") == Approx(quantile(tpot, 0.5)).epsilon(1e-9));
    CHECK(figure("e2e_p99") == Approx(quantile(e2e, 0.99)).epsilon(1e-12));
    CHECK(figure("output_tokens_per_second") == Approx(output / (end - begin)).epsilon(1e-9));
  }
}

TEST_CASE("the timeline is JSON in which every request has its spans, and spans of a track do not overlap") {
  const std::filesystem::path folder = scratch("timeline");
  const auto timeline = folder / "timeline.json";
  const auto check = [&](const Arguments& more, std::size_t count, int processes) {
    const Outcome outcome = run(folder, with(with(plan, more), {"--timeline", timeline.string()}));
    INFO(outcome.err);
    REQUIRE(outcome.status == 0);
    std::map<std::string, std::size_t> names;
    std::map<std::pair<int, int>, std::vector<std::pair<double, double>>> spans;
    std::set<int> seen;
    for (const auto& event : evictsim::test::trace_events(contents(timeline))) {
      ++names[event.at("name").get<std::string>()];
      seen.insert(event.at("pid").get<int>());
      if (event.at("ph") != "X") continue;
      // A transfer lies within its request's decode span.
      if (event.at("name") == "transfer") continue;
      spans[{event.at("pid"), event.at("tid")}].emplace_back(event.at("ts"), event.at("dur"));
    }
    for (const char* name : {"waiting", "prefill", "decode"}) CHECK(names[name] == count);
    CHECK(names["step"] + names["steps"] > 0);
    CHECK(names["KV blocks"] > 0);
    CHECK(static_cast<int>(seen.size()) == processes);
    std::size_t overlaps = 0;
    for (auto& [track, all] : spans) {
      std::sort(all.begin(), all.end());
      for (std::size_t index = 1; index < all.size(); ++index) {
        // Microseconds with three decimals as doubles: a nanosecond is far above rounding.
        if (all[index].first < all[index - 1].first + all[index - 1].second - 5e-4) ++overlaps;
      }
    }
    CHECK(overlaps == 0);
    return names;
  };
  check({"-w", "poisson", "--rate", "3", "--requests-count", "60", "--replicas", "2"}, 60, 3);
  auto names = check({"-w", "closed(concurrency=40)", "--requests-count", "60", "--kv-blocks", "400"}, 60, 2);
  CHECK(names["preempted"] > 0);
  names = check(
      {"-w", "poisson", "--rate", "3", "--requests-count", "60", "--disaggregate", "1:2", "--transfer-bandwidth", "10"},
      60, 4);
  CHECK(names["transfer"] == 60);
  const Outcome several = run(folder, with(plan, {"-w", "poisson", "--rate", "1,2", "--timeline", timeline.string()}));
  CHECK(several.status == 1);
  CHECK_THAT(several.err, Contains("--timeline") && Contains("one row"));
}

TEST_CASE("plan.h5 has the rows and where they came from") {
  const std::filesystem::path folder = scratch("h5");
  const std::string file = (folder / "plan.h5").string(), csv = (folder / "plan.csv").string();
  const auto trace = std::filesystem::path(EVICTSIM_SOURCE_DIR) / "tests/unit/workloads/llmservingsim.csv";
  const Outcome outcome =
      run(folder,
          with(plan, {"-w", trace.string() + ",poisson", "--rate", "1,2", "--seed", "5", "-o", file, "--csv", csv}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 4);
  const evictsim::test::H5File plan_file(file);
  auto attributes = plan_file.attributes("/");
  CHECK(attributes["format"] == "evictsim-plan");
  CHECK(attributes["format_version"] == "1");
  attributes = plan_file.attributes("/provenance");
  CHECK(attributes["seed"] == "5");
  CHECK(attributes["complete"] == "1");
  CHECK_THAT(attributes["command_line"], Contains("plan -m llama-3.1-8b -g rtx-4090"));
  CHECK_FALSE(attributes["evictsim_version"].empty());
  // llama-3.1-8b, rtx-4090, vllm and the trace.
  for (const char* name : {"path", "checksum", "model"}) {
    CHECK(plan_file.has(std::string("/provenance/inputs/") + name));
  }
  std::size_t compared = 0;
  for (const auto& [column, text] : rows[0]) {
    REQUIRE(plan_file.has("/rows/" + column));
    if (text.empty() || text.find_first_not_of("0123456789.e-") != std::string::npos) continue;
    const auto values = plan_file.read("/rows/" + column).values;
    REQUIRE(values.size() == 4);
    for (std::size_t row = 0; row < 4; ++row) CHECK(values[row] == std::stod(rows[row].at(column)));
    ++compared;
  }
  CHECK(compared > 20);
}
