// Does `evictsim plan` answer its questions: one run, sweeps, goodput, fewest GPUs, explanations and measured points?
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/program.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

using Row = std::map<std::string, std::string>;

const Arguments one_gpu = {"plan", "--model", "llama-3.1-8b", "--gpu", "h100-80gb-sxm"};

Arguments with(Arguments words, const Arguments& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

double number(const Row& row, const std::string& column) {
  INFO(column);
  REQUIRE_FALSE(row.at(column).empty());
  return std::stod(row.at(column));
}

/// Runs a plan that must succeed, and reads its CSV.
std::vector<Row> rows_of(const std::filesystem::path& folder, const Arguments& words) {
  const std::string csv = (folder / "plan.csv").string();
  const Outcome outcome = run(folder, with(words, {"--csv", csv}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return read_csv(csv);
}

const std::filesystem::path workloads = std::filesystem::path(EVICTSIM_SOURCE_DIR) / "tests/unit/workloads";

}  // namespace

TEST_CASE("a trace on one GPU: a table, and a row with every promised column") {
  const std::filesystem::path folder = scratch("trace");
  const std::string csv = (folder / "plan.csv").string();
  const Outcome outcome =
      run(folder, with(one_gpu, {"--workload", (workloads / "azure_conversation.csv").string(), "--csv", csv}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(outcome.err.empty());
  CHECK_THAT(outcome.out, Contains("TTFT s") && Contains("simulated seconds per second") && Contains("Wrote"));
  CHECK(contents(csv).rfind("model,gpu,engine,tensor_parallel,pipeline_parallel,replicas,policy,budget,workload,rate,"
                            "requests,completed,ttft_mean,ttft_p50,ttft_p99,tpot_mean,tpot_p50,tpot_p99,e2e_mean,"
                            "e2e_p99,output_tokens_per_second,total_tokens_per_second,kv_capacity_tokens,"
                            "kv_peak_tokens,batch_mean,preemptions,prefix_hit_rate,recall_bytes_per_second,"
                            "host_bytes_peak,output_error,slo_met,status",
                            0) == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 1);
  const Row& row = rows[0];
  CHECK(row.at("model") == "llama-3.1-8b");
  CHECK(row.at("gpu") == "h100-80gb-sxm");
  CHECK(row.at("engine") == "vllm");
  CHECK(row.at("policy") == "full");
  CHECK(row.at("budget") == "1");
  CHECK(row.at("output_error") == "0");
  CHECK(row.at("workload") == "azure_conversation.csv");
  CHECK(row.at("requests") == "50");
  CHECK(row.at("completed") == "50");
  CHECK(row.at("slo_met").empty());
  CHECK(row.at("status") == "ok");
  CHECK(number(row, "ttft_p50") <= number(row, "ttft_p99"));
  CHECK(number(row, "ttft_mean") > 0);
  CHECK(number(row, "kv_peak_tokens") <= number(row, "kv_capacity_tokens"));
  CHECK(number(row, "kv_capacity_tokens") > 100000);
}

TEST_CASE("a sweep is the product of its lists, in order, the same with any number of threads") {
  const std::filesystem::path folder = scratch("sweep");
  const std::string csv = (folder / "plan.csv").string();
  const auto sweep = [&](const char* threads) {
    const Outcome outcome = run(folder, {"plan",
                                         "-m",
                                         "llama-3.1-8b,llama-3.1-70b",
                                         "-g",
                                         "h100-80gb-sxm",
                                         "--tp",
                                         "1,2",
                                         "-w",
                                         "poisson,gamma(cv=2,prompt=100)",
                                         "--rate",
                                         "1,2,4",
                                         "--requests-count",
                                         "50",
                                         "--output-tokens",
                                         "lognormal(mean=40,cv=1)",
                                         "--csv",
                                         csv,
                                         "--threads",
                                         threads,
                                         "--seed",
                                         "7"});
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    return contents(csv);
  };
  const std::string alone = sweep("1");
  CHECK(sweep("4") == alone);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 24);
  std::size_t index = 0;
  for (const char* model : {"llama-3.1-8b", "llama-3.1-70b"}) {
    for (const char* degree : {"1", "2"}) {
      for (const char* workload : {"poisson(prompt=1024,output=lognormal(mean=40,cv=1))",
                                   "gamma(cv=2,prompt=100,output=lognormal(mean=40,cv=1))"}) {
        for (const char* rate : {"1", "2", "4"}) {
          const Row& row = rows[index++];
          CHECK(row.at("model") == model);
          CHECK(row.at("tensor_parallel") == degree);
          CHECK(row.at("gpus") == degree);
          CHECK(row.at("workload") == workload);
          CHECK(row.at("rate") == rate);
          CHECK(row.at("seed") == "7");
          // 141 GB of weights on one GPU of 80 GB: a row that says so, and the sweep goes on.
          const bool fits = std::string(model) == "llama-3.1-8b" || std::string(degree) == "2";
          CHECK((row.at("status") == "ok") == fits);
          if (!fits) CHECK_THAT(row.at("status"), Contains("does not fit") && Contains("bytes"));
        }
      }
    }
  }
}

TEST_CASE("more work takes longer, more GPUs less") {
  const std::filesystem::path folder = scratch("sense");
  const auto rates = rows_of(folder, with(one_gpu, {"-w", "poisson", "--rate", "1,16", "--requests-count", "400"}));
  CHECK(number(rates[0], "ttft_mean") < number(rates[1], "ttft_mean"));
  CHECK(number(rates[0], "tpot_mean") < number(rates[1], "tpot_mean"));
  CHECK(number(rates[0], "batch_mean") < number(rates[1], "batch_mean"));
  const auto replicas =
      rows_of(folder, with(one_gpu, {"-w", "poisson", "--rate", "16", "--replicas", "1,4", "--requests-count", "400"}));
  CHECK(number(replicas[0], "tpot_mean") > number(replicas[1], "tpot_mean"));
  CHECK(number(replicas[1], "gpus") == 4);
  const auto types = rows_of(
      folder, with(one_gpu, {"-w", "poisson", "--rate", "1", "--weights", "published,fp8", "--kv-type", "bf16,fp8"}));
  REQUIRE(types.size() == 4);
  CHECK(number(types[1], "kv_capacity_tokens") == Approx(2 * number(types[0], "kv_capacity_tokens")).epsilon(0.001));
  CHECK(number(types[2], "kv_capacity_tokens") > number(types[0], "kv_capacity_tokens"));
  CHECK(types[3].at("weights") == "fp8");
  CHECK(types[3].at("kv_type") == "fp8");
}

TEST_CASE("options of the scheduler reach it") {
  const std::filesystem::path folder = scratch("scheduler");
  const auto few = rows_of(
      folder, with(one_gpu, {"-w", "closed(concurrency=32)", "--max-sequences", "4,32", "--requests-count", "100"}));
  CHECK(few[0].at("rate").empty());
  CHECK(number(few[0], "batch_mean") <= 4);
  CHECK(number(few[1], "batch_mean") > 8);
  const auto short_of_memory =
      rows_of(folder, with(one_gpu, {"-w", "closed(concurrency=32)", "--kv-blocks", "400,40000", "--requests-count",
                                     "100", "--preemption", "recompute,swap"}));
  CHECK(number(short_of_memory[0], "kv_capacity_tokens") == 6400);
  CHECK(number(short_of_memory[0], "kv_peak_tokens") <= 6400);
  CHECK(number(short_of_memory[0], "preemptions") > 0);
  CHECK(number(short_of_memory[0], "host_bytes_peak") == 0);
  CHECK(number(short_of_memory[1], "host_bytes_peak") > 0);
  CHECK(number(short_of_memory[2], "preemptions") == 0);
  const auto batching = rows_of(folder, with(one_gpu, {"-w", "poisson", "--rate", "4", "--batching",
                                                       "continuous,static", "--requests-count", "100"}));
  CHECK(number(batching[0], "ttft_mean") < number(batching[1], "ttft_mean"));
  const auto split = rows_of(
      folder, with(one_gpu, {"-w", "poisson", "--rate", "4", "--disaggregate", "1:1,1:2", "--requests-count", "100"}));
  CHECK(split[1].at("replicas") == "3");
  CHECK(split[1].at("prefill_replicas") == "1");
  CHECK(split[1].at("decode_replicas") == "2");
  const Arguments shared = {"-w", "poisson(prefix_groups=2,prefix_tokens=2000,turns=3)", "--rate", "4"};
  const auto cached = rows_of(folder, with(with(one_gpu, shared), {"--prefix-cache"}));
  const auto uncached = rows_of(folder, with(with(one_gpu, shared), {"--no-prefix-cache"}));
  CHECK(number(cached[0], "prefix_hit_rate") > 0.5);
  CHECK(number(uncached[0], "prefix_hit_rate") == 0);
  CHECK(number(cached[0], "ttft_mean") < number(uncached[0], "ttft_mean"));
}

TEST_CASE("goodput meets the objective, and a larger rate does not") {
  const std::filesystem::path folder = scratch("goodput");
  const Arguments asked = with(one_gpu, {"-w", "poisson", "--requests-count", "600", "--output-tokens",
                                         "lognormal(mean=200,cv=0.5)", "--slo", "ttft_p99=2s,tpot_p99=30ms"});
  const auto found = rows_of(folder, with(asked, {"--goodput", "--replications", "3"}));
  REQUIRE(found.size() == 1);
  CHECK(found[0].at("slo_met") == "1");
  const double rate = number(found[0], "rate");
  CHECK(number(found[0], "goodput_low") <= number(found[0], "goodput"));
  CHECK(number(found[0], "goodput") <= number(found[0], "goodput_high"));
  const auto more = rows_of(folder, with(asked, {"--rate", std::to_string(1.05 * rate)}));
  CHECK(more[0].at("slo_met") == "0");
  const Outcome again = run(folder, with(asked, {"--goodput", "--threads", "1", "--csv", (folder / "1.csv").string()}));
  REQUIRE(again.status == 0);
  CHECK(read_csv(folder / "1.csv") == found);
}

TEST_CASE("the fewest GPUs meet the objective, and fewer do not") {
  const std::filesystem::path folder = scratch("fewest");
  const Arguments asked = with(
      one_gpu, {"-w", "constant", "--rate", "40", "--requests-count", "1000", "--slo", "tpot_p99=12ms,ttft_p99=1s"});
  const std::string csv = (folder / "plan.csv").string();
  const Outcome outcome = run(folder, with(asked, {"--min-gpus", "--csv", csv}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto found = read_csv(csv);
  const auto replicas = static_cast<int>(number(found[0], "replicas"));
  CHECK(replicas > 1);
  CHECK(found[0].at("slo_met") == "1");
  CHECK_THAT(outcome.out, Contains("Fewest GPUs: " + std::to_string(replicas) + " GPUs"));
  const auto fewer = rows_of(folder, with(asked, {"--replicas", std::to_string(replicas - 1)}));
  CHECK(fewer[0].at("slo_met") == "0");
}

TEST_CASE("explanations add up") {
  const std::filesystem::path folder = scratch("explain");
  const Outcome outcome = run(folder, with(one_gpu, {"-w", "poisson", "--rate", "1", "--explain"}));
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("KV budget of one GPU:") && Contains("= keys and values") &&
                              Contains("blocks of 16 tokens") && Contains("Step: ") &&
                              Contains("Per request, before its first step:"));
  // Bytes of the lines are the second column from the name on; they add up to the last one.
  std::istringstream text(outcome.out.substr(outcome.out.find("KV budget")));
  std::string line;
  std::getline(text, line);
  double sum = 0;
  while (std::getline(text, line)) {
    const std::size_t gib = line.find(" GiB");
    REQUIRE(gib != std::string::npos);
    std::istringstream words(line.substr(0, gib));
    std::vector<std::string> all;
    for (std::string word; words >> word;) all.push_back(word);
    const double bytes = std::stod(all[all.size() - 2]);
    if (line.find("= keys") != std::string::npos) {
      CHECK(bytes == sum);
      break;
    }
    sum += bytes;
  }
  CHECK(sum > 0);
}

TEST_CASE("models, GPUs and engines are listed") {
  const std::filesystem::path folder = scratch("lists");
  CHECK_THAT(run(folder, {"plan", "--list-models"}).out, Contains("llama-3.1-8b") && Contains("B parameters"));
  CHECK_THAT(run(folder, {"plan", "--list-gpus"}).out, Contains("h100-80gb-sxm") && Contains("GB/s"));
  CHECK_THAT(run(folder, {"plan", "--list-engines"}).out, Contains("vllm"));
  CHECK_THAT(run(folder, {"plan", "--help"}).out, Contains("Examples:") && Contains("--goodput"));
}

TEST_CASE("copies of attention add up their memory, each with the weights that it needs") {
  const std::filesystem::path folder = scratch("copies");
  const auto rows =
      rows_of(folder, {"plan", "-m", "qwen3-30b-a3b", "-g", "h100-80gb-sxm", "-w", "poisson", "--rate", "5",
                       "--requests-count", "50", "--attention-data-parallel", "1,2,4", "--expert-parallel", "1,2"});
  REQUIRE(rows.size() == 6);
  double before = 0;
  for (const Row& row : rows) {
    CAPTURE(row.at("attention_data_parallel"), row.at("expert_parallel"), row.at("status"));
    const double copies = number(row, "attention_data_parallel");
    if (number(row, "expert_parallel") > copies) {
      CHECK_THAT(row.at("status"), Contains("moe_expert_parallel"));
      continue;
    }
    CHECK(row.at("status") == "ok");
    CHECK(number(row, "gpus") == copies);
    if (number(row, "expert_parallel") > 1) continue;
    // Experts are shared out, so the room of all copies grows faster than their number.
    CHECK(number(row, "kv_capacity_tokens") > 2 * before);
    before = number(row, "kv_capacity_tokens");
  }
}

TEST_CASE("measured points are predicted, or say why not") {
  const std::filesystem::path folder = scratch("points");
  const std::filesystem::path points = folder / "points.csv";
  std::ofstream(points)
      << "id,silicon_concurrency,backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,"
         "moe_quant_mode,batch_size,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size\n"
      << "a,8,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,,,8,2,1,,1,1\n"
      << "b,8,vllm,0.12.0,nobody/nothing,h100_sxm,,agg,1024,128,,,8,2,1,,1,1\n";
  const std::string output = (folder / "predicted.csv").string();
  const Outcome outcome = run(folder, {"plan", "--points", points.string(), "-o", output});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(contents(output).rfind("id,ttft_ms,tpot_ms,status\n", 0) == 0);
  const auto rows = read_csv(output);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].at("status") == "ok");
  CHECK(std::stod(rows[0].at("tpot_ms")) > 1);
  CHECK(rows[1].at("ttft_ms").empty());
  CHECK_THAT(rows[1].at("status"), Contains("unsupported model"));
}

TEST_CASE("an interrupted sweep exits 130 and keeps its finished rows") {
  const std::filesystem::path folder = scratch("interrupt");
  const std::filesystem::path csv = folder / "plan.csv";
  std::string rates = "1";
  for (int rate = 2; rate <= 2000; ++rate) rates += "," + std::to_string(rate);
  Process process(folder, with(one_gpu, {"-w", "poisson", "--rate", rates, "--requests-count", "20000", "--csv",
                                         csv.string(), "-o", (folder / "plan.h5").string()}));
  while (process.running() && lines_in(contents(csv)) < 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  process.signal(SIGINT);
  const Outcome outcome = process.wait();
  INFO(outcome.err);
  REQUIRE(outcome.status == 130);
  CHECK_THAT(outcome.err, Contains("interrupted: "));
  const auto rows = read_csv(csv);
  CHECK(rows.size() >= 2);
  CHECK(rows[1].at("rate") == "2");
  CHECK(std::filesystem::exists(folder / "plan.h5"));
}
