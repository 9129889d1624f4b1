// Do tiers below the replicas, and the sequences of a replay, get from the command line into the rows of a plan?
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/program.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

double number(const std::map<std::string, std::string>& row, const char* column) {
  INFO(column);
  REQUIRE_FALSE(row.at(column).empty());
  return std::stod(row.at(column));
}

/// Prompts of 30 groups with 4000 tokens in common, far more than 900 blocks hold.
Arguments plan(const std::filesystem::path& folder, const Arguments& more) {
  Arguments words = {"plan",
                     "--model",
                     "llama-3.1-8b",
                     "--gpu",
                     "h100-80gb-sxm",
                     "--workload",
                     "poisson",
                     "--rate",
                     "3",
                     "--requests-count",
                     "120",
                     "--prompt-tokens",
                     "100",
                     "--output-tokens",
                     "50",
                     "--prefix-groups",
                     "30",
                     "--prefix-tokens",
                     "4000",
                     "--kv-blocks",
                     "900",
                     "--csv",
                     (folder / "plan.csv").string()};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE("prefixes that leave HBM are found in the host and on disk, and requests start earlier") {
  const std::filesystem::path folder = scratch("tiers");
  const Outcome outcome =
      run(folder, plan(folder, {"--host-memory", "0,4,64", "--disk", "200", "--tier-policy", "lru,arc"}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("host hits") && Contains("disk hits"));
  const auto rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 6);
  for (const auto& row : rows) {
    CHECK(row.at("status") == "ok");
    CHECK(number(row, "completed") == 120);
    const double gib = number(row, "host_memory");
    CHECK(row.at("remote_hit_rate").empty());
    if (gib == 0) {  // no tier, and none that stands before the disk
      CHECK(row.at("host_hit_rate").empty());
      CHECK(number(row, "disk_hit_rate") > 0);
      continue;
    }
    CHECK(number(row, "host_hit_rate") > 0);
    CHECK(number(row, "host_bytes_peak") <= gib * 1024 * 1024 * 1024);
    for (const char* link : {"host_load_utilisation", "host_store_utilisation", "disk_load_utilisation"}) {
      CHECK(number(row, link) >= 0);
      CHECK(number(row, link) <= 1);
    }
  }
  CHECK(rows[0].at("tier_policy") == "lru");
  CHECK(rows[1].at("tier_policy") == "arc");
  CHECK(number(rows[4], "host_hit_rate") > number(rows[2], "host_hit_rate"));
  // All 30 prefixes take 15 GiB.
  CHECK(number(rows[4], "host_hit_rate") + number(rows[4], "prefix_hit_rate") > 0.6);
  const std::filesystem::path without = scratch("no_tiers");
  REQUIRE(run(without, plan(without, {})).status == 0);
  const auto bare = read_csv(without / "plan.csv");
  CHECK(number(rows[4], "ttft_mean") < number(bare[0], "ttft_mean"));
  CHECK(bare[0].at("host_hit_rate").empty());
}

TEST_CASE("timelines show loads, requests what was loaded, and layer-wise loading saves time") {
  const std::filesystem::path folder = scratch("loads");
  const std::string timeline = (folder / "timeline.json").string(), requests = (folder / "requests.csv").string();
  const Arguments slow = {"--host-memory", "64", "--host-bandwidth", "2", "--load-or-recompute", "load"};
  Arguments words = plan(folder, slow);
  words.insert(words.end(), {"--timeline", timeline, "--requests", requests});
  REQUIRE(run(folder, words).status == 0);
  CHECK_THAT(contents(timeline), Contains("\"load\"") && Contains("tier bytes"));
  double loaded = 0;
  for (const auto& row : read_csv(requests)) {
    loaded += number(row, "loaded_tokens");
    CHECK(number(row, "loaded_tokens") <= number(row, "cached_tokens"));
  }
  CHECK(loaded > 0);
  const double waiting = number(read_csv(folder / "plan.csv")[0], "ttft_mean");
  words = plan(folder, slow);
  words.emplace_back("--layer-overlap");
  REQUIRE(run(folder, words).status == 0);
  CHECK(number(read_csv(folder / "plan.csv")[0], "ttft_mean") != waiting);
}

TEST_CASE("tiers that cannot be are one clear line") {
  const std::filesystem::path folder = scratch("bad_tiers");
  const auto fails = [&](const Arguments& words, const std::string& why) {
    const Outcome outcome = run(folder, plan(folder, words));
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 1);
    CHECK_THAT(outcome.err, Contains(why));
  };
  fails({"--host-memory", "-1"}, "--host-memory");
  fails({"--host-memory", "8", "--host-bandwidth", "0"}, "--host-bandwidth = 0: expected more than 0 GB/s");
  fails({"--host-memory", "8", "--host-bandwidth", "1e300"}, "--host-bandwidth");
  fails({"--host-memory", "8", "--tier-policy", "nope"}, "--tier-policy = nope: no such cache policy; there are lru");
  fails({"--host-memory", "8", "--tier-policy", "lur"}, "did you mean lru");
  fails({"--host-memory", "0.0001"}, "--host-memory = 0.0001: 107374 bytes are less than one chunk of 16 tokens");
  fails({"--disk", "0.0001"}, "--disk = 0.0001: 107374 bytes are less");
  fails({"--disk-bandwidth", "5"}, "how much");
  fails({"--disk", "100", "--disk-storage", "nvme-gen9"}, "nvme-gen4");
  fails({"--remote", "100"}, "--remote-storage");
  fails({"--host-memory", "8", "--tier-policy", "belady"}, "belady");
  fails({"--host-memory", "8", "--tier-chunk", "256"}, "write through");
  fails({"--host-memory", "8", "--load-or-recompute", "never"}, "auto, load, recompute");
  fails({"--layer-overlap"}, "no tier");
}

TEST_CASE("what policies keep on the host is limited by the host's memory") {
  const std::filesystem::path folder = scratch("kept_on_host");
  const std::filesystem::path trace = write_trace(folder / "trace.h5");
  const std::string file = (folder / "run.h5").string();
  const Outcome replayed =
      run(folder, {"replay", trace.string(), "--policy", "infllm", "--budget", "0.2", "-o", file, "--quiet"});
  INFO(replayed.err);
  REQUIRE(replayed.status == 0);
  Arguments words = {"plan",
                     "--model",
                     "llama-3.1-8b",
                     "--gpu",
                     "h100-80gb-sxm",
                     "--workload",
                     "poisson",
                     "--rate",
                     "50",
                     "--prompt-tokens",
                     "4000",
                     "--output-tokens",
                     "100",
                     "--requests-count",
                     "60",
                     "--csv",
                     (folder / "plan.csv").string(),
                     "--quiet",
                     "--profile",
                     file};
  REQUIRE(run(folder, words).status == 0);
  const auto unlimited = read_csv(folder / "plan.csv").at(1);
  REQUIRE(unlimited.at("policy") == "infllm");
  const double gib = 1024.0 * 1024 * 1024, kept = number(unlimited, "host_bytes_peak");
  REQUIRE(kept > 4 * gib);
  words.insert(words.end(), {"--host-memory", "0,0.01,2,1000", "--no-prefix-cache"});
  REQUIRE(run(folder, words).status == 0);
  const auto rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 8);
  for (std::size_t i = 0; i < rows.size(); i += 2) {
    CAPTURE(i, rows[i + 1].at("status"));
    CHECK(rows[i].at("status") == "ok");  // the full cache needs no host
    CHECK(number(rows[i], "host_bytes_peak") == 0);
    if (i < 4) {  // no prompt has room
      CHECK_THAT(rows[i + 1].at("status"), Contains("every request") && Contains("keeps more than the"));
      continue;
    }
    CHECK(rows[i + 1].at("status") == "ok");
    CHECK(number(rows[i + 1], "completed") == 60);
    CHECK(number(rows[i + 1], "host_bytes_peak") <= number(rows[i + 1], "host_memory") * gib);
  }
  // With 2 GiB requests wait; with plenty of it room is taken when requests are admitted, before their prompts are
  // done.
  CHECK(number(rows[5], "ttft_mean") > 2 * number(unlimited, "ttft_mean"));
  CHECK(number(rows[7], "ttft_mean") == Approx(number(unlimited, "ttft_mean")));
  CHECK(number(rows[7], "host_bytes_peak") >= kept * (1 - 1e-9));
}

TEST_CASE("the sequences of a replay are served step by step, with the bytes of run.csv") {
  const std::filesystem::path folder = scratch("replayed");
  const std::filesystem::path trace = write_trace(folder / "trace.h5");
  const std::string file = (folder / "run.h5").string(), csv = (folder / "run.csv").string();
  Arguments replay = {"replay", trace.string(), "--policy", "h2o,infllm", "--budget", "0.5,0.2",
                      "-o",     file,           "--csv",    csv,          "--quiet"};
  const Arguments words = {"plan",           "--model",       "llama-3.1-8b",
                           "--gpu",          "h100-80gb-sxm", "--workload",
                           "replay:" + file, "--csv",         (folder / "plan.csv").string(),
                           "--quiet"};
  REQUIRE(run(folder, replay).status == 0);
  const Outcome without = run(folder, words);
  CHECK(without.status == 1);
  CHECK_THAT(without.err, Contains("--events"));
  replay.insert(replay.end(), {"--events", (folder / "events.csv").string()});
  REQUIRE(run(folder, replay).status == 0);
  const Outcome outcome = run(folder, words);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto recorded = read_csv(csv), rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 5);
  CHECK(rows[0].at("policy") == "full");
  bool recalled_any = false;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    CAPTURE(i, rows[i].at("policy"), rows[i].at("budget"));
    CHECK(rows[i].at("status") == "ok");
    double recalled = 0;
    for (const auto& row : recorded) {
      if (row.at("policy") != rows[i].at("policy") || row.at("budget") != rows[i].at("budget")) continue;
      recalled += number(row, "recall_bytes_per_step") * number(row, "decode_rows");
    }
    // Bytes per token of the model served over those of the trace.
    const auto& h2o = recorded.front();
    const double factor = 131072 / (number(h2o, "kept_bytes") / number(h2o, "kept_entries"));
    CHECK(number(rows[i], "recall_bytes_per_second") * number(rows[i], "simulated_seconds") ==
          Approx(recalled * factor).margin(10));
    recalled_any = recalled_any || recalled > 0;
  }
  CHECK(recalled_any);
  CHECK(number(rows[0], "completed") == number(rows[1], "completed"));
}
