// Do the events of a replay add up to its rows, in the order of steps, at any number of threads?
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/program.h"

using namespace evictsim::tests;

namespace {

constexpr int layers = 2, kv_heads = 2, decode_rows = 10;

double number(const std::map<std::string, std::string>& row, const char* column) { return std::stod(row.at(column)); }

}  // namespace

TEST_CASE("evictions and recalls step by step add up to the means of run.csv") {
  const std::filesystem::path folder = scratch("events");
  const std::filesystem::path trace = write_trace(folder / "trace.h5");
  const std::string events = (folder / "events.csv").string(), csv = (folder / "run.csv").string();
  const Arguments words = {"replay",   trace.string(),
                           "--policy", "snapkv(window=4),h2o,infllm",
                           "--budget", "0.5,0.2",
                           "--events", events,
                           "--csv",    csv,
                           "--quiet"};
  const Outcome outcome = run(folder, words);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto steps = read_csv(events);
  const auto rows = read_csv(csv);
  REQUIRE(steps.size() == rows.size() * (decode_rows + 1));
  bool evicted_any = false, recalled_any = false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CAPTURE(i, rows[i].at("policy"), rows[i].at("budget"));
    const auto& cut = steps[i * (decode_rows + 1)];
    for (const char* column : {"trace", "sequence", "policy", "budget"}) CHECK(cut.at(column) == rows[i].at(column));
    CHECK(number(cut, "row") == prompt_length - 1);
    CHECK(number(cut, "resident_entries") == Approx(number(rows[i], "kept_entries") * layers * kv_heads));
    CHECK(number(cut, "resident_entries") + number(cut, "evicted_entries") == prompt_length * layers * kv_heads);
    CHECK(number(cut, "written_host_bytes") == number(rows[i], "host_bytes"));
    double resident = 0, evicted = 0, recalled = 0, scanned = 0;
    for (std::size_t step = 1; step <= decode_rows; ++step) {
      const auto& event = steps[i * (decode_rows + 1) + step];
      CHECK(number(event, "row") == static_cast<double>(prompt_length) + static_cast<double>(step) - 1);
      resident += number(event, "resident_entries");
      evicted += number(event, "evicted_entries");
      recalled += number(event, "recalled_host_bytes") + number(event, "recalled_disk_bytes");
      scanned += number(event, "scanned_bytes");
    }
    CHECK(resident / decode_rows == Approx(number(rows[i], "resident_entries") * layers * kv_heads));
    CHECK(evicted / decode_rows == Approx(number(rows[i], "evictions_per_step") * layers * kv_heads));
    CHECK(recalled / decode_rows == Approx(number(rows[i], "recall_bytes_per_step")));
    CHECK(scanned / decode_rows == Approx(number(rows[i], "scanned_bytes_per_step")));
    evicted_any = evicted_any || evicted > 0;
    recalled_any = recalled_any || recalled > 0;
  }
  CHECK(evicted_any);
  CHECK(recalled_any);
  const std::string once = contents(events);
  Arguments threads = words;
  threads.insert(threads.end(), {"--threads", "3"});
  REQUIRE(run(folder, threads).status == 0);
  CHECK(contents(events) == once);
}
