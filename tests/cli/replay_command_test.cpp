// Does `evictsim replay` keep its promises from end to end: files, exit statuses, error lines, determinism,
// interruption?
#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "policies/policy.h"
#include "tests/cli/program.h"
#include "traces/hdf5_handle.h"

using namespace evictsim::tests;

TEST_CASE("a replay writes one row per sequence, policy and budget, and prints a table") {
  const std::filesystem::path folder = scratch("rows");
  const std::string trace = write_trace(folder / "trace.h5").string();
  const std::string csv = (folder / "run.csv").string();
  const std::string output = (folder / "run.h5").string();
  const Outcome outcome =
      run(folder, {"replay", trace, "--policy", "knorm,snapkv(window=8,kernel=3)", "--policy", "random", "--budget",
                   "0.25,0.5", "--budget", "0.50,20", "--csv", csv, "-o", output});
  CHECK(outcome.err.empty());
  REQUIRE(outcome.status == 0);
  CHECK(outcome.out.find("snapkv(window=8,kernel=3)") != std::string::npos);
  CHECK(outcome.out.find("Queries come from the full-cache run") != std::string::npos);
  CHECK(outcome.out.find("Wrote " + output + ", " + csv) != std::string::npos);
  CHECK(outcome.out.find('\033') == std::string::npos);
  CHECK(std::filesystem::exists(output));

  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 2 * 3 * 3);
  for (const auto& row : rows) {
    CHECK(row.at("trace") == trace);
    CHECK(row.at("status") == "ok");
    CHECK(row.at("decode_rows") == "10");
    CHECK(row.at("layers") == "2");
    const double kept = std::stod(row.at("kept_entries"));
    CHECK(kept == (row.at("budget") == "0.5" ? 40 : 20));
    CHECK(std::stod(row.at("kept_bytes")) == kept * 2 * 2 * 2 * 16 * 2);
    CHECK(std::stod(row.at("kept_fraction")) == kept / prompt_length);
    CHECK(std::stod(row.at("output_error")) > 0);
    CHECK(std::stod(row.at("layer_error")) > 0);
    CHECK(std::stod(row.at("retained_mass")) < 1);
    CHECK(row.at("predicted_kl").empty());
    CHECK_FALSE(row.at("span_retention").empty());
  }
}

TEST_CASE("results are the same bytes at any number of threads") {
  const std::filesystem::path folder = scratch("threads");
  const std::string trace = write_trace(folder / "trace.h5").string();
  std::vector<std::string> results, dumps;
  for (const char* threads : {"1", "2", "4"}) {
    const std::filesystem::path csv = folder / (std::string("run") + threads + ".csv");
    const std::filesystem::path dump = folder / (std::string("kept") + threads + ".h5");
    const Outcome outcome =
        run(folder, {"replay", trace, "--policy", "all", "--budget", "0.2,0.6", "--seed", "5", "--threads", threads,
                     "--csv", csv.string(), "--dump", dump.string(), "--quiet"});
    dumps.push_back(contents(dump));
    CHECK(outcome.out.empty());
    REQUIRE(outcome.status == 0);
    results.push_back(contents(csv));
  }
  CHECK(lines_in(results[0]) > 20);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
  CHECK(dumps[0].size() > 10000);
  // Not as CHECK(a == b), which would print the bytes.
  CHECK((dumps[0] == dumps[1]));
  CHECK((dumps[0] == dumps[2]));
}

TEST_CASE("the whole cache gives no error, whatever the policy") {
  const std::filesystem::path folder = scratch("whole");
  const std::string trace = write_trace(folder / "trace.h5").string();
  const std::filesystem::path csv = folder / "run.csv";
  REQUIRE(run(folder, {"replay", trace, "--policy", "all", "--budget", "1", "--csv", csv.string()}).status == 0);
  const auto rows = read_csv(csv);
  // Those that lack a file or a dataset are skipped; those without a budget of their own are left out below.
  CHECK(rows.size() >= 2 * 50);
  for (const auto& row : rows) {
    INFO(row.at("policy"));
    const auto policy = evictsim::policies::parse_policy(row.at("policy"));
    if (policy.places_at_any_budget || (!policy.never_cuts() && policy.allocator->ignores_budget())) continue;
    CHECK(std::stod(row.at("kept_entries")) == prompt_length);
    CHECK(std::stod(row.at("retained_mass")) == Approx(1).margin(1e-6));
    CHECK(std::stod(row.at("output_error")) < 1e-6);
    CHECK(std::stod(row.at("layer_error")) < 1e-6);
    CHECK(row.at("regret") == "0");
    CHECK(row.at("normalised_regret").empty());  // nothing can be regretted
    CHECK(row.at("premature_evictions") == "0");
  }
}

TEST_CASE("a compression ratio is kvpress's arithmetic") {
  const std::filesystem::path folder = scratch("ratio");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::filesystem::path csv = folder / "run.csv";
  REQUIRE(
      run(folder, {"replay", trace, "--policy", "knorm", "--compression-ratio", "0.9", "--csv", csv.string()}).status ==
      0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].at("budget") == "0.09999999999999998");
  CHECK(rows[0].at("kept_entries") == "7");  // int(80 * 0.09999999999999998)
}

TEST_CASE("a policy that fixes its budget says that the lists do not apply") {
  const std::filesystem::path folder = scratch("fixed");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::filesystem::path csv = folder / "run.csv";
  const Outcome outcome = run(folder, {"replay", trace, "--policy", "kvpress:KnormPress(compression_ratio=0.5)",
                                       "--budget", "0.2", "--csv", csv.string()});
  REQUIRE(outcome.status == 0);
  CHECK(outcome.err.find("warning: ") == 0);
  CHECK(lines_in(outcome.err) == 1);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].at("kept_entries") == "40");
}

TEST_CASE("a policy without its data is an error alone, and a warning among others") {
  const std::filesystem::path folder = scratch("needs");
  const std::string trace = write_trace(folder / "trace.h5", {.all_queries = false}).string();
  const std::filesystem::path csv = folder / "run.csv";
  const Outcome alone = run(folder, {"replay", trace, "--policy", "snapkv"});
  CHECK(alone.status == 1);
  CHECK(alone.err.find("error: ") == 0);
  CHECK(alone.err.find("--layers") != std::string::npos);
  CHECK(lines_in(alone.err) == 1);
  const Outcome sweep =
      run(folder, {"replay", trace, "--policy", "snapkv,knorm", "--budget", "0.5", "--csv", csv.string()});
  CHECK(sweep.status == 0);
  CHECK(sweep.err.find("warning: snapkv: skipped: ") == 0);
  CHECK(lines_in(sweep.err) == 1);  // once, not for every sequence
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].at("policy") == "knorm");
}

TEST_CASE("without W_O the columns behind it are empty") {
  const std::filesystem::path folder = scratch("no-projection");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1, .with_projection = false}).string();
  const std::filesystem::path csv = folder / "run.csv";
  REQUIRE(run(folder, {"replay", trace, "--policy", "knorm", "--budget", "0.5", "--csv", csv.string()}).status == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].at("layer_error").empty());
  CHECK(rows[0].at("squared_error").empty());
  CHECK_FALSE(rows[0].at("output_error").empty());
}

TEST_CASE("without decode rows one line says that only the cuts after the prompt are reported") {
  const std::filesystem::path folder = scratch("prompt-only");
  const std::string trace = write_trace(folder / "trace.h5", {.length = prompt_length}).string();
  const std::filesystem::path csv = folder / "run.csv";
  const Outcome outcome = run(folder, {"replay", trace, "--policy", "knorm", "--budget", "0.5", "--csv", csv.string()});
  REQUIRE(outcome.status == 0);
  CHECK(outcome.err == "warning: " + trace +
                           ": 2 sequences have no decode rows with queries; only the cuts after the prompt are "
                           "reported\n");
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].at("kept_entries") == "40");
  CHECK(rows[0].at("output_error").empty());
}

TEST_CASE("run.h5 holds the command line as typed") {
  const std::filesystem::path folder = scratch("typed");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string output = (folder / "run.h5").string();
  REQUIRE(run(folder, {"replay", "-p", "snapkv(window=8)", trace, "-b0.5", "-q", "-o", output}).status == 0);
  const evictsim::traces::hdf5::Guard guard;
  const auto root = evictsim::traces::hdf5::Node::open_file(output, std::filesystem::file_size(output));
  CHECK(root.group("provenance").text_attribute("command_line") ==
        std::string(EVICTSIM_BIN_DIR) + "/evictsim replay -p 'snapkv(window=8)' " + trace + " -b0.5 -q -o " + output);
}

TEST_CASE("wrong use exits 2, wrong input 1, each with a line that says what") {
  const std::filesystem::path folder = scratch("errors");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string before = contents(trace);
  const auto check = [&](const Arguments& arguments, int status, const char* part) {
    INFO(part);
    const Outcome outcome = run(folder, arguments);
    CHECK(outcome.status == status);
    CHECK(outcome.err.find(part) != std::string::npos);
    if (!arguments.empty()) {
      CHECK(lines_in(outcome.err) == 1);
      CHECK(outcome.err.find("error: ") == 0);
    }
  };
  check({}, 2, "Usage");
  check({"replay"}, 2, "TRACE is required");
  check({"replay", trace}, 2, "--policy is required");
  check({"replay", trace, "--policy", "knorm", "--nonsense"}, 2, "--nonsense");
  check({"replay", "--nonsense"}, 2, "unknown option --nonsense (see --help)");
  check({"repaly", trace}, 2, "unknown command or argument repaly (see --help)");
  check({"replay", trace, "--policy", "knorm", "--threads", "0"}, 2, "--threads");
  for (const char* seed : {"-1", "99999999999999999999", "9223372036854775808", "1x"}) {
    check({"replay", trace, "--policy", "knorm", "--seed", seed}, 2, "from 0 to 9223372036854775807");
  }
  check({"replay", trace, "--policy", "knrm"}, 1, "knorm");
  check({"replay", trace, "--policy", "knorm", "--budget", "0"}, 1, "budget");
  check({"replay", trace, "--policy", "knorm", "--budget", "0.2,"}, 1, "budget");
  check({"replay", trace, "--policy", "knorm", "--compression-ratio", "1"}, 1, "0 <= ratio < 1");
  check({"replay", trace, "--policy", "knorm", "--layers", "1-"}, 1, "--layers = 1-");
  check({"replay", trace, "--policy", "knorm", "--layers", "3"}, 1, "3");
  check({"replay", trace, "--policy", "knorm", "--per", "token", "-o", (folder / "r.h5").string()}, 1, "--per = token");
  check({"replay", trace, "--policy", "knorm", "--per", "step"}, 1, "-o run.h5");
  check({"replay", (folder / "none.h5").string(), "--policy", "knorm"}, 1, "none.h5");
  check({"replay", trace, "--policy", "knorm", "-o", trace}, 1, "would overwrite");
  check({"replay", trace, "--policy", "knorm", "--csv", (folder / "a").string(), "-o", (folder / "a").string()}, 1,
        "would overwrite");
  check({"replay", trace, "--policy", "knorm", "--csv", (folder / "no" / "run.csv").string()}, 1, "No such file");
  check({"replay", trace, "--policy", "knorm", "-o", (folder / "no" / "run.h5").string()}, 1, "No such file");
  for (const char* option : {"-o", "--dump"}) {
    check({"replay", trace, "--policy", "knorm", option, "/dev/full"}, 1, "is not a regular file");
    check({"replay", trace, "--policy", "knorm", option, folder.string()}, 1, "not a regular file");
  }
  check({"replay", trace, "--policy", "knorm", "--csv", "-"}, 1, "--csv = -");
  check({"replay", trace, "--policy", "knorm", "--csv", folder.string()}, 1, "Is a directory");
  check({"replay", trace, trace, "--policy", "knorm", "--dump", (folder / "kept.h5").string()}, 1,
        "one trace at a time");
  CHECK(contents(trace) == before);
  CHECK(run(folder, {"replay", "--help"}).status == 0);
  CHECK(run(folder, {"replay", "--help"}).out.find("Examples:") != std::string::npos);
  CHECK(run(folder, {"--version"}).out.find("evictsim ") == 0);
}

TEST_CASE("an interrupted run exits 130 and keeps its finished rows in both files") {
  const std::filesystem::path folder = scratch("interrupt");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 150, .length = prompt_length + 40}).string();
  const std::filesystem::path csv = folder / "run.csv";
  const std::filesystem::path output = folder / "run.h5";
  Process process(folder, {"replay", trace, "--policy", "all", "--budget", "0.1,0.3,0.5", "--csv", csv.string(), "-o",
                           output.string(), "--threads", "1"});
  while (process.running() && lines_in(contents(csv)) < 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  process.signal(SIGINT);
  const Outcome outcome = process.wait();
  INFO(outcome.err);
  REQUIRE(outcome.status == 130);
  CHECK(outcome.err.find("interrupted: ") != std::string::npos);
  const auto rows = read_csv(csv);
  CHECK(rows.size() >= 2);
  const evictsim::traces::hdf5::Guard guard;
  const auto root = evictsim::traces::hdf5::Node::open_file(output.string(), std::filesystem::file_size(output));
  CHECK(root.group("rows").dataset("output_error").shape() == std::vector<std::size_t>{rows.size()});
  CHECK(root.group("provenance").integer_attribute("complete") == 0);
}

TEST_CASE("the dump has a group per policy, budget, sequence, layer and head") {
  const std::filesystem::path folder = scratch("dump");
  const std::string trace = write_trace(folder / "trace.h5").string();
  const std::filesystem::path dump = folder / "kept.h5";
  const Outcome outcome =
      run(folder, {"replay", trace, "--policy", "knorm,tova", "--budget", "0.25", "--dump", dump.string()});
  CHECK(outcome.err.empty());
  REQUIRE(outcome.status == 0);
  const evictsim::traces::hdf5::Guard guard;
  const auto root = evictsim::traces::hdf5::Node::open_file(dump.string(), std::filesystem::file_size(dump));
  for (const char* policy : {"knorm", "tova"}) {
    const auto sequence = root.group(policy).group("0.25").group("000001");
    for (const char* layer : {"layer_000", "layer_002"}) {
      const auto head = sequence.group(layer).group("head_1");
      CHECK(head.dataset("kept").shape() == std::vector<std::size_t>{20});
      CHECK(head.dataset("score").shape() == std::vector<std::size_t>{prompt_length});
      CHECK(head.has("resident") == (std::string(policy) == "tova"));
    }
    CHECK(sequence.has("rows") == (std::string(policy) == "tova"));
  }
  CHECK(
      root.group("tova").group("0.25").group("000000").group("layer_000").group("head_0").dataset("resident").shape() ==
      std::vector<std::size_t>{10, prompt_length + 10});
}
