// Does a replay of policies become a frontier of quality and throughput?
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/program.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

/// A replay of a small trace: three policies at two budgets.
std::string replayed(const std::filesystem::path& folder) {
  const std::filesystem::path trace = write_trace(folder / "trace.h5");
  const std::string path = (folder / "run.h5").string();
  const Outcome outcome = run(folder, {"replay", trace.string(), "--policy", "snapkv(window=4),h2o,adakv", "--budget",
                                       "0.5,0.2", "-o", path, "--quiet"});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return path;
}

Arguments plan(const std::filesystem::path& folder, const Arguments& more) {
  // Prompts that fill a small memory, so that what is not kept is worth something.
  Arguments words = {"plan",
                     "--model",
                     "llama-3.1-8b",
                     "--gpu",
                     "l40s",
                     "--workload",
                     "poisson",
                     "--rate",
                     "8",
                     "--requests-count",
                     "60",
                     "--prompt-tokens",
                     "2000",
                     "--output-tokens",
                     "200",
                     "--kv-blocks",
                     "800",
                     "--csv",
                     (folder / "plan.csv").string()};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

double number(const std::map<std::string, std::string>& row, const char* column) {
  INFO(column);
  REQUIRE_FALSE(row.at(column).empty());
  return std::stod(row.at(column));
}

}  // namespace

TEST_CASE("rows per policy and budget beside the full cache, with the error of the replay and a frontier") {
  const std::filesystem::path folder = scratch("frontier");
  const std::string profile = replayed(folder);
  const Outcome outcome = run(folder, plan(folder, {"--profile", profile}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("frontier") && Contains("snapkv(window=4)") && Contains("yes"));
  const auto rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 7);
  CHECK(rows[0].at("policy") == "full");
  CHECK(rows[0].at("output_error") == "0");
  CHECK(rows[0].at("frontier") == "1");
  for (std::size_t i = 1; i < rows.size(); ++i) {
    CAPTURE(i, rows[i].at("policy"));
    CHECK(rows[i].at("status") == "ok");
    CHECK(rows[i].at("budget") == (i % 2 == 1 ? "0.5" : "0.2"));
    CHECK(number(rows[i], "output_error") > 0);
    CHECK(number(rows[i], "output_tokens_per_second") > number(rows[0], "output_tokens_per_second"));
    CHECK(number(rows[i], "completed") == 60);
  }
  for (const std::size_t of_policy : {1U, 3U, 5U}) {
    CHECK(number(rows[of_policy + 1], "output_tokens_per_second") >
          number(rows[of_policy], "output_tokens_per_second"));
    CHECK(number(rows[of_policy + 1], "output_error") > number(rows[of_policy], "output_error"));
  }
}

TEST_CASE("policies and budgets are chosen by name, pages by rule, and more threads change nothing") {
  const std::filesystem::path folder = scratch("chosen");
  const std::string profile = replayed(folder);
  const Arguments chosen = {"--profile", profile, "--policy", "full,adakv", "--budget", "0.20", "--rate", "4"};
  REQUIRE(run(folder, plan(folder, chosen)).status == 0);
  const auto rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 4);  // two rates
  CHECK(rows[1].at("policy") == "adakv");
  CHECK(rows[1].at("budget") == "0.2");
  const std::string once = contents(folder / "plan.csv");
  Arguments threads = chosen;
  threads.insert(threads.end(), {"--threads", "4"});
  const Outcome on_four = run(folder, plan(folder, threads));
  REQUIRE(on_four.status == 0);
  CHECK(on_four.err.empty());  // also where there are fewer cores
  CHECK(contents(folder / "plan.csv") == once);
  // Heads of Ada-KV differ, so pages of their own are fewer than those of the longest.
  Arguments by_head = chosen;
  by_head.insert(by_head.end(), {"--pages", "per_head"});
  REQUIRE(run(folder, plan(folder, by_head)).status == 0);
  const auto ragged = read_csv(folder / "plan.csv");
  CHECK(number(ragged[1], "output_tokens_per_second") >= number(rows[1], "output_tokens_per_second"));
  CHECK(ragged[0].at("output_tokens_per_second") == rows[0].at("output_tokens_per_second"));
}

TEST_CASE("what cannot be is one clear line") {
  const std::filesystem::path folder = scratch("wrong");
  const std::string profile = replayed(folder);
  const auto refused = [&](const Arguments& more) {
    const Outcome outcome = run(folder, plan(folder, more));
    CHECK(outcome.status == 1);
    CHECK(lines_in(outcome.err) == 1);
    return outcome.err;
  };
  CHECK_THAT(refused({"--policy", "h2o"}), Contains("--profile"));
  CHECK_THAT(refused({"--budget", "0.5"}), Contains("--profile"));
  CHECK_THAT(refused({"--profile", profile, "--policy", "tova"}), Contains("h2o") && Contains("adakv"));
  CHECK_THAT(refused({"--profile", profile, "--policy", "h2o", "--budget", "0.3"}), Contains("0.5") && Contains("0.2"));
  CHECK_THAT(refused({"--profile", profile, "--budget", "many"}), Contains("many"));
  CHECK_THAT(refused({"--profile", profile, "--pages", "some"}), Contains("per_head"));
  CHECK_THAT(refused({"--profile", (folder / "none.h5").string()}), Contains("none.h5"));
  CHECK_THAT(refused({"--profile", (folder / "trace.h5").string()}), Contains("run file"));
}

TEST_CASE("all policies of a profile by one word, and in a model with sliding windows too") {
  const std::filesystem::path folder = scratch("all");
  const std::string profile = replayed(folder);
  const auto rows_with = [&](const Arguments& more) {
    const Outcome outcome = run(folder, plan(folder, more));
    INFO(outcome.err);
    REQUIRE(outcome.status == 0);
    return read_csv(folder / "plan.csv");
  };
  const auto named = rows_with({"--profile", profile});
  const auto all = rows_with({"--profile", profile, "--policy", "all"});
  REQUIRE(all.size() == named.size());
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i] == named[i]);
  CHECK(rows_with({"--profile", profile, "--policy", "all", "--budget", "0.2"}).size() == 4);

  // Half of the layers have a window of 128, so a fifth of the others is less of the whole than of a model without.
  Arguments windows = plan(folder, {"--profile", profile, "--policy", "h2o", "--budget", "0.2"});
  *std::find(windows.begin(), windows.end(), "llama-3.1-8b") = "gpt-oss-20b";
  const Outcome outcome = run(folder, windows);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(folder / "plan.csv");
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].at("status") == "ok");
  CHECK(number(rows[1], "output_tokens_per_second") >= number(rows[0], "output_tokens_per_second"));
  // An indexer chooses by itself what is read.
  Arguments sparse = plan(folder, {"--profile", profile, "--tp", "8", "--weights", "nvfp4"});
  *std::find(sparse.begin(), sparse.end(), "llama-3.1-8b") = "glm-5";
  *std::find(sparse.begin(), sparse.end(), "l40s") = "b200-180gb-sxm";
  CHECK_THAT(run(folder, sparse).out + run(folder, sparse).err, Contains("choose by themselves"));
}
