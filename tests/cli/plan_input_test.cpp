// Does `evictsim plan` refuse bad input in one clear line, or in the row concerned, and always come to an end?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/cli/program.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

Arguments with(Arguments words, const Arguments& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

const Arguments deployment = {"plan", "-m", "llama-3.1-8b", "-g", "l40s"};

class Refusals {
 public:
  explicit Refusals(const std::string& name) : folder_(scratch(name)) {}

  /// One line on the error stream that holds all of `expected`, and status 1.
  void check(const Arguments& words, const std::vector<std::string>& expected, int status = 1) const {
    const Outcome outcome = run(folder_, words);
    std::string line;
    for (const std::string& word : words) line += word + " ";
    INFO(line);
    INFO(outcome.err);
    CHECK(outcome.status == status);
    CHECK(lines_in(outcome.err) == 1);
    CHECK(outcome.err.rfind("error: ", 0) == 0);
    for (const std::string& part : expected) CHECK_THAT(outcome.err, Contains(part));
  }
  [[nodiscard]] std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace

TEST_CASE("names that do not exist are answered with the nearest ones") {
  const Refusals refusals("names");
  const Arguments load = {"-w", "poisson", "--rate", "1"};
  refusals.check(with({"plan", "-m", "lama-3.1-8b", "-g", "l40s"}, load), {"--model = lama-3.1-8b", "llama-3.1-8b"});
  refusals.check(with({"plan", "-m", "llama-3.1-8b", "-g", "h100-sxm"}, load), {"--gpu = h100-sxm", "h100-80gb-sxm"});
  refusals.check(with(with(deployment, load), {"-e", "vlm"}), {"--engine = vlm", "vllm"});
  refusals.check(with(with(deployment, load), {"-e", "vllm:99"}), {"99", "0.12.0"});
  refusals.check(with({"plan", "-m", "/nowhere/config.json", "-g", "l40s"}, load), {"/nowhere/config.json"});
  refusals.check(with(deployment, {"-w", "poison", "--rate", "1"}), {"--workload = poison", "nearest: poisson"});
  refusals.check(with(deployment, {"-w", "azure"}), {"--workload = azure", "the file of a trace (Azure,"});
  refusals.check(with(deployment, {"-w", "nowhere.csv"}), {"nowhere.csv"});
  refusals.check(with(deployment, {"-w", "/dev/null"}), {"/dev/null", "not a regular file"});
  refusals.check(with({"plan", "-m", "llama-3.1-8b", "-g", "4090"}, load), {"--gpu = 4090", "nearest: rtx-4090;"});
  refusals.check(with({"plan", "-m", "llama-3.1-8b", "-g", "sxm-a100"}, load), {"nearest: a100-80gb-sxm"});
  refusals.check(with({"plan", "-m", "llama-3.1-8b", "-g", "qqqq"}, load),
                 {"no such name; `evictsim plan --list-gpus`"});
  refusals.check(with({"plan", "-m", "meta-llama/Llama3.1-8B", "-g", "l40s"}, load), {"nearest: llama-3.1-8b"});
  refusals.check(with(with(deployment, load), {"--routing", "roundrobin"}), {"--routing", "nearest: round_robin"});
  refusals.check(with(with(deployment, load), {"--batching", "dynamic"}), {"--batching", "continuous, static"});
  refusals.check(with(with(deployment, load), {"--preemption", "wait"}), {"--preemption", "recompute, swap"});
  refusals.check(with(with(deployment, load), {"--weights", "fp7"}), {"--weights", "fp8"});
  refusals.check(with(with(deployment, load), {"--kv-type", "x"}), {"--kv-type", "fp8"});
}

TEST_CASE("usage") {
  const Refusals refusals("usage");
  refusals.check({"plan", "-m", "llama-3.1-8b", "-g", "l40s"}, {"--workload"}, 2);
  refusals.check({"plan", "-g", "l40s", "-w", "poisson"}, {"--model"}, 2);
  refusals.check(with(deployment, {"-w", "poisson", "--rat", "1"}), {"--rat"}, 2);
  refusals.check(with(deployment, {"-w", "poisson", "--rate", "1", "--threads", "0"}), {"--threads"}, 2);
}

TEST_CASE("workloads that are none") {
  const Refusals refusals("workloads");
  const auto check = [&](const std::string& text, const std::vector<std::string>& expected) {
    refusals.check(with(deployment, {"-w", refusals.file("trace.csv", text)}), expected);
  };
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  check("", {"trace.csv", "is empty"});
  check(header, {"trace.csv", "holds no requests"});
  check("TIMESTAMP,Tokens,GeneratedTokens\n1,2,3\n", {"trace.csv", "line 1", "Tokens"});
  check("TIMESTAMP,ContextTokens,GeneratedTokens,Colour\n1,2,3,4\n", {"trace.csv", "column = Colour"});
  check(header + "5,1,1\n4,1,1\n", {"trace.csv", "line 3", "earlier"});
  check(header + "-5,1,1\n", {"trace.csv", "line 2", "not negative"});
  check(header + "5,0,1\n", {"trace.csv", "line 2", "ContextTokens = 0"});
  check(header + "5,1,0\n", {"trace.csv", "line 2", "GeneratedTokens = 0"});
  refusals.check(with(deployment, {"-w", refusals.file("trace.csv", "0,1,1\n"), "--rate", "1"}), {"--rate", "at once"});
  refusals.check(with(deployment, {"-w", refusals.file("trace.csv", "0,1,1\n"), "--prompt-tokens", "5"}),
                 {"--prompt-tokens", "made-up"});
  refusals.check(with(deployment, {"-w", "poisson", "--rate", "1", "--lengths", refusals.file("l.csv", "")}),
                 {"empty"});
}

TEST_CASE("numbers out of range") {
  const Refusals refusals("numbers");
  const auto check = [&](const Arguments& words, const std::vector<std::string>& expected) {
    refusals.check(with(deployment, words), expected);
  };
  check({"-w", "poisson"}, {"needs --rate"});
  check({"-w", "poisson", "--rate", "0"}, {"--rate = 0"});
  check({"-w", "poisson", "--rate", "-2"}, {"--rate = -2"});
  check({"-w", "poisson", "--rate", "fast"}, {"--rate = fast", "a number"});
  check({"-w", "poisson", "--rate", "1,,2"}, {"--rate"});
  check({"-w", "poisson", "--rate", "1e300"}, {"--rate"});
  check({"-w", "poisson", "--rate", "nan"}, {"--rate"});
  check({"-w", "poisson", "--rate", "1", "--scale-rate", "0"}, {"--scale-rate"});
  check({"-w", "closed", "--rate", "1"}, {"--rate", "closed loop"});
  std::filesystem::create_directories(refusals.folder() / "closed");  // which is no trace
  check({"-w", "closed", "--rate", "1"}, {"--rate", "closed loop"});
  check({"-w", "poisson", "--rate", "1", "--duration", "0"}, {"--duration"});
  check({"-w", "poisson", "--rate", "1e-3", "--duration", "1"}, {"no request arrives"});
  check({"-w", "poisson", "--rate", "1", "--requests-count", "0"}, {"--requests-count"});
  check({"-w", "poisson", "--rate", "1", "--requests-count", "1000000000000"}, {"--requests-count", "2e7"});
  check({"-w", "poisson", "--rate", "1e9", "--duration", "1e9"}, {"--duration", "2e7"});
  check({"-w", "poisson", "--rate", "1", "--prefix-groups", "5", "--prefix-tokens", "100000000"}, {"prefix_tokens"});
  check({"-w", "poisson", "--rate", "1", "--seed", "-1"}, {"--seed"});
  check({"-w", "poisson", "--rate", "1", "--tp", "0"}, {"--tensor-parallel = 0"});
  check({"-w", "poisson", "--rate", "1", "--tp", "3"}, {"tensor_parallel = 3"});
  check({"-w", "poisson", "--rate", "1", "--pp", "100"}, {"pipeline_parallel"});
  check({"-w", "poisson", "--rate", "1", "--attention-data-parallel", "0"}, {"--attention-data-parallel = 0"});
  check({"-w", "poisson", "--rate", "1", "--replicas", "0"}, {"--replicas = 0"});
  check({"-w", "poisson", "--rate", "1", "--memory-share", "1.5"}, {"--memory-share = 1.5"});
  check({"-w", "poisson", "--rate", "1", "--memory-share", "0.1"}, {"does not fit"});
  check({"-w", "poisson", "--rate", "1", "--token-budget", "0"}, {"--token-budget"});
  check({"-w", "poisson", "--rate", "1", "--max-sequences", "none"}, {"--max-sequences"});
  check({"-w", "poisson", "--rate", "1", "--kv-blocks", "0"}, {"--kv-blocks"});
  check({"-w", "poisson", "--rate", "1", "--kv-blocks", "40000000", "--replicas", "2"}, {"--kv-blocks", "in all"});
  check({"-w", "poisson", "--rate", "1", "--replicas", "60000"}, {"--replicas", "in all"});
  check({"-w", "poisson", "--rate", "1", "--disaggregate", "2"}, {"--disaggregate", "1:2"});
  check({"-w", "poisson", "--rate", "1", "--disaggregate", "0:1"}, {"--disaggregate"});
  check({"-w", "poisson", "--rate", "1", "--disaggregate", "1:1", "--replicas", "2"}, {"--disaggregate"});
  check({"-w", "poisson", "--rate", "1", "--turns", "0"}, {"--turns"});
  check({"-w", "poisson", "--rate", "1", "--prompt-tokens", "lognormal"}, {"--prompt-tokens"});
  check({"-w", "gamma(cv=-1)", "--rate", "1"}, {"cv"});
}

TEST_CASE("a model that does not fit says by how much and what would") {
  const Refusals refusals("memory");
  refusals.check({"plan", "-m", "llama-3.1-70b", "-g", "l40s", "-w", "poisson", "--rate", "1"},
                 {"does not fit", "bytes", "would fit"});
}

TEST_CASE("requests longer than memory: an error if all are, a status if some are") {
  const Refusals refusals("long");
  refusals.check(with(deployment, {"-w", "poisson(prompt=3000000)", "--rate", "1"}), {"every request", "memory"});
  const std::string trace = refusals.file("trace.csv", "0,100,10\n1,3000000,10\n2,100,10\n");
  const std::string csv = (refusals.folder() / "plan.csv").string();
  const Outcome outcome =
      run(refusals.folder(), with(deployment, {"-w", trace, "--csv", csv, "--slo", "e2e_mean=100"}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(csv);
  CHECK_THAT(rows[0].at("status"), Contains("refused 1 of 3 requests"));
  CHECK(rows[0].at("completed") == "2");
  CHECK(rows[0].at("slo_met") == "0");  // who is refused waits for ever
}

TEST_CASE("objectives that cannot be met") {
  const Refusals refusals("objectives");
  const Arguments load = {"-w", "poisson", "--rate", "1"};
  refusals.check(with(with(deployment, load), {"--slo", "ttft=2"}), {"--slo"});
  refusals.check(with(with(deployment, load), {"--slo", "latency_p99=2"}), {"--slo", "ttft, tpot or e2e"});
  refusals.check(with(with(deployment, load), {"--slo", "ttft_p99=1us", "--goodput"}),
                 {"cannot be met", "ttft_p99 is", "limit 1e-06"});
  refusals.check(with(with(deployment, load), {"--slo", "tpot_p99=1us", "--min-gpus"}), {"cannot be met"});
  refusals.check(with(with(deployment, load), {"--goodput"}), {"--goodput", "needs --slo"});
  refusals.check(with(with(deployment, load), {"--min-gpus"}), {"--min-gpus", "needs --slo"});
  refusals.check(with(with(deployment, load), {"--slo", "ttft_p99=1", "--goodput", "--min-gpus"}), {"--min-gpus"});
  refusals.check(with(deployment, {"-w", "closed", "--slo", "ttft_p99=1", "--goodput"}), {"closed loop"});
  refusals.check(with(with(deployment, load), {"--slo", "ttft_p99=1", "--min-gpus", "--replicas", "2"}),
                 {"--replicas"});
}

TEST_CASE("outputs that would destroy something, or cannot be written") {
  const Refusals refusals("outputs");
  const std::string trace = refusals.file("trace.csv", "0,100,10\n");
  const Arguments words = with(deployment, {"-w", trace});
  refusals.check(with(words, {"--csv", trace}), {"--csv", "overwrite"});
  refusals.check(with(words, {"--requests", trace}), {"--requests", "overwrite"});
  const std::string output = (refusals.folder() / "x").string();
  refusals.check(with(words, {"--csv", output, "-o", output}), {"overwrite"});
  refusals.check(with(words, {"--csv", "/nowhere/plan.csv"}), {"/nowhere/plan.csv"});
  refusals.check(with(words, {"-o", "/nowhere/plan.h5"}), {"/nowhere/plan.h5"});
  refusals.check(with(words, {"--timeline", "/nowhere/t.json"}), {"/nowhere/t.json"});
  refusals.check({"plan", "--points", trace}, {"--points", "-o"});
  refusals.check({"plan", "--points", "nowhere.csv", "-o", output}, {"nowhere.csv"});
}

TEST_CASE("hostile loads come to an end") {
  const Refusals refusals("hostile");
  const auto ends = [&](const Arguments& words) {
    const Outcome outcome = run(refusals.folder(), with(deployment, words));
    INFO(outcome.err);
    CHECK((outcome.status == 0 || outcome.status == 1));
    if (outcome.status == 1) CHECK(lines_in(outcome.err) == 1);
  };
  ends({"-w", "poisson", "--rate", "1e9"});
  ends({"-w", "poisson", "--rate", "1e-6", "--requests-count", "10"});
  ends({"-w", "poisson", "--rate", "1e-9"});
  ends({"-w", "gamma(cv=100)", "--rate", "1"});
  ends({"-w", "closed(concurrency=100000)"});
  ends({"-w", "closed(prompt=3000000)", "--duration", "1000"});
  ends({"-w", "poisson(prompt=1,output=1)", "--rate", "1000", "--kv-blocks", "1"});
  ends({"-w", "poisson(prompt=lognormal(mean=1000,cv=5),output=lognormal(mean=1000,cv=5))", "--rate", "10",
        "--kv-blocks", "1000", "--requests-count", "300"});
  ends({"-w", "poisson(output=100000000)", "--rate", "1", "--kv-blocks", "10000000", "--requests-count", "2"});
  ends({"-w", "poisson(turns=10000,prompt=1,output=1)", "--rate", "1"});
  ends({"-w", "poisson", "--rate", "10", "--token-budget", "1", "--requests-count", "20"});
  ends({"-w", "poisson", "--rate", "10", "--max-sequences", "1", "--batching", "static", "--requests-count", "20"});
}
