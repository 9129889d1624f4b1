#include "sim/cli/plan_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "analysis/csv.h"
#include "sim/cli/plan_cases.h"
#include "sim/cli/plan_explain.h"
#include "sim/cli/plan_outputs.h"
#include "sim/cli/plan_sweep.h"
#include "sim/cli/shell_line.h"
#include "sim/serving/measured_points.h"
#include "traces/error.h"
#include "traces/stop_on_signal.h"

namespace evictsim {
namespace {

constexpr int failed_status = 1;

constexpr const char* footer = R"(Examples:
  evictsim plan --model llama-3.1-8b --gpu h100-80gb-sxm --workload azure.csv
      One GPU serves a trace: Azure, Mooncake, BurstGPT, LLMServingSim or CSV, known by its first line.
  evictsim plan --model llama-3.1-8b --gpu l40s,h100-80gb-sxm --workload poisson --rate 1,2,4 --csv plan.csv
      A sweep: every combination of the lists is a row. Rows come as they finish, always in the same order.
  evictsim plan --model qwen3-32b --gpu h100-80gb-sxm --tensor-parallel 1,2,4 --workload 'gamma(cv=2)' \
      --prompt-tokens 'lognormal(mean=2000,cv=1)' --output-tokens 300 --slo ttft_p99=2s,tpot_p99=50ms --goodput
      The largest rate that meets the objective, with a 95 % interval over seeds.
  evictsim plan --model qwen3-32b --gpu h100-80gb-sxm --tensor-parallel 2 --workload poisson --rate 20 \
      --slo ttft_p99=2s --min-gpus
      The smallest number of GPUs for a rate.
  evictsim plan --model llama-3.1-8b --gpu l40s --workload poisson --rate 4 --profile run.h5 --policy snapkv,h2o
      What policies of a replay gain, and what they cost in error.

Workloads, columns and files: docs/plan.md. Times are in seconds, rates in requests per second.
Exit status: 0 done, 1 bad input or no row could be simulated, 2 bad usage, 130 interrupted (finished rows are kept).)";

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void predict_points(const PlanArguments& arguments) {
  const std::string& output = arguments.plan_file.empty() ? arguments.csv : arguments.plan_file;
  if (output.empty()) {
    throw Error(ErrorCode::invalid_argument, "needs -o predicted.csv, where predictions go",
                {.parameter = "--points", .value = arguments.points});
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(output, arguments.points, ignored)) {
    throw Error(ErrorCode::invalid_argument, "would overwrite the points", {.parameter = "--output", .value = output});
  }
  const std::vector<sim::PointPrediction> predictions = sim::predict_points(arguments.points);
  analysis::CsvFile csv(output, std::vector<std::string>{"id", "ttft_ms", "tpot_ms", "status"});
  std::size_t predicted = 0;
  std::string lines;
  for (const sim::PointPrediction& prediction : predictions) {
    lines += analysis::csv_line(std::vector<std::string>{prediction.id, analysis::decimal(prediction.ttft_ms),
                                                         analysis::decimal(prediction.tpot_ms), prediction.status});
    if (prediction.status == "ok") ++predicted;
  }
  csv.append(lines);
  if (!arguments.quiet) {
    print(fmt::format("{} of {} points are predicted; the others say why not. Wrote {}.\n", predicted,
                      predictions.size(), output));
  }
}

void run(const PlanArguments& arguments) {
  if (arguments.list_models || arguments.list_gpus || arguments.list_engines || arguments.list_storage) {
    if (arguments.list_models) print(list_models());
    if (arguments.list_gpus) print(list_gpus());
    if (arguments.list_engines) print(list_engines());
    if (arguments.list_storage) print(list_storage());
    return;
  }
  if (!arguments.points.empty()) {
    predict_points(arguments);
    return;
  }
  const traces::StopOnSignal signals;
  const PlanCases cases = plan_cases(arguments, traces::StopOnSignal::requested());
  for (const std::string& warning : cases.warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  PlanOutputs outputs(arguments, cases);
  if (arguments.explain) {
    for (const analysis::PlanCase& plan : cases.cases) print(explain(plan) + "\n");
  }
  PlanSweep sweep;
  sweep.threads = arguments.threads;
  sweep.stop = &traces::StopOnSignal::requested();
  sweep.before_run = [&](std::size_t /*index*/, sim::ServingOptions& options) { outputs.before_run(options); };
  sweep.row = [&](std::size_t index, const analysis::PlanAnswer& answer) { outputs.row(index, answer); };
  sweep.searching = [&](const std::string& tried) { outputs.searching(tried); };
  sweep.progress = [&](std::size_t finished) { outputs.progress(finished); };
  outputs.progress(0);
  const bool complete = run_sweep(cases.cases, sweep);
  outputs.finish(complete);
  if (!complete) {
    fmt::print(stderr, "interrupted: {} finished rows are kept\n", outputs.rows());
    throw CLI::RuntimeError(traces::interrupted_status);
  }
  if (!outputs.any_simulated()) {
    fmt::print(stderr, "error: no row could be simulated: see their status\n");
    throw CLI::RuntimeError(failed_status);
  }
}

/// One value per mention, so that a list never swallows what stands behind it.
CLI::Option* add_list(CLI::App& command, const char* names, std::vector<std::string>& values, const char* type,
                      const char* help, const char* group) {
  return command.add_option(names, values, help)->allow_extra_args(false)->type_name(type)->group(group);
}

void add_tier_options(CLI::App& command, TierArguments& tiers) {
  const char* const group = "What is below";
  const auto add = [&](TierArguments::Tier& tier, const char* gib, const char* about, const char* storage,
                       const char* bandwidth, const char* defaults) {
    add_list(command, gib, tier.gib, "GIB,...", about, group);
    command.add_option(storage, tier.storage, std::string("What it is, a description of docs/tiers.md") + defaults)
        ->type_name("NAME")
        ->group(group);
    command.add_option(bandwidth, tier.gigabytes_per_second, "GB/s per GPU, each way, instead of the description's")
        ->type_name("GBPS")
        ->group(group);
  };
  add(tiers.tiers[0], "--host-memory", "GiB of host memory per GPU for prefixes and swapped requests", "--host-storage",
      "--host-bandwidth", " (default: the GPU's link)");
  add(tiers.tiers[1], "--disk", "GiB of disk per GPU for prefixes", "--disk-storage", "--disk-bandwidth",
      " (default: nvme-gen4)");
  add(tiers.tiers[2], "--remote", "GiB of remote memory per GPU for prefixes", "--remote-storage", "--remote-bandwidth",
      "");
  add_list(command, "--tier-policy", tiers.policies, "P,...", "Who leaves a tier: lru, arc, s3fifo, ... (default: lru)",
           group);
  add_list(command, "--tier-write", tiers.writes, "W,...", "Blocks go down when evicted (back) or filled (through)",
           group)
      ->default_str("back");
  add_list(command, "--load-or-recompute", tiers.rules, "R,...",
           "auto: what is done earlier; load or recompute what tiers hold", group)
      ->default_str("auto");
  command.add_flag("--layer-overlap", tiers.layer_overlap, "Load layer by layer while the first step computes")
      ->group(group);
  command
      .add_option("--tier-chunk", tiers.chunk_tokens, "Tokens of a chunk, with --tier-write through (default: a block)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(group);
}

void add_options(CLI::App& command, PlanArguments& arguments) {
  const auto list = [&](const char* names, std::vector<std::string>& values, const char* type, const char* help,
                        const char* group) { return add_list(command, names, values, type, help, group); };
  const char* const deployment = "What serves";
  list("--model,-m", arguments.models, "M,...", "Models: names, Hugging Face names, or paths of a config.json",
       deployment);
  list("--gpu,-g", arguments.gpus, "G,...", "GPUs: names, or paths of descriptions", deployment);
  list("--engine,-e", arguments.engines, "E,...", "Engines, with a version if one matters: vllm:0.19.0", deployment)
      ->default_str("vllm");
  list("--tensor-parallel,--tp", arguments.tensor_parallel, "N,...", "GPUs that share a layer (default: 1)",
       deployment);
  list("--pipeline-parallel,--pp", arguments.pipeline_parallel, "N,...", "Stages of layers (default: 1)", deployment);
  list("--attention-data-parallel", arguments.attention_data_parallel, "N,...",
       "Copies of attention in a replica, each with requests and KV of its own (default: 1)", deployment);
  list("--expert-parallel,--ep", arguments.expert_parallel, "N,...", "GPUs over which experts are spread whole",
       deployment);
  list("--replicas", arguments.replicas, "N,...", "Equal copies behind a router (default: 1)", deployment);
  list("--disaggregate", arguments.disaggregate, "P:D,...", "Replicas for prompts and for the other tokens",
       deployment);
  list("--weights", arguments.weights, "T,...", "Type of the weights, such as fp8 (default: as published)", deployment);
  list("--kv-type", arguments.kv_types, "T,...", "Type of keys and values (default: bf16)", deployment);
  const char* const scheduling = "How it serves";
  list("--memory-share", arguments.memory_shares, "S,...", "Share of a GPU's memory (default: the engine's)",
       scheduling);
  list("--kv-blocks", arguments.kv_blocks, "N,...", "KV blocks of a replica, instead of the memory that is left",
       scheduling);
  list("--token-budget", arguments.token_budgets, "N,...", "Tokens of a step (default: the engine's)", scheduling);
  list("--max-sequences", arguments.max_sequences, "N,...", "Sequences of a step (default: the engine's)", scheduling);
  list("--batching", arguments.batching, "B,...", "continuous or static (default: continuous)", scheduling);
  list("--preemption", arguments.preemption, "P,...", "recompute or swap (default: recompute)", scheduling);
  list("--routing", arguments.routing, "R,...", "round_robin, least_loaded or prefix_aware (default: round_robin)",
       scheduling);
  command
      .add_flag("--prefix-cache,!--no-prefix-cache", arguments.prefix_cache,
                "Find equal beginnings of prompts again (default: on)")
      ->group(scheduling);
  command
      .add_flag("--chunked-prefill,!--no-chunked-prefill", arguments.chunked_prefill,
                "Compute long prompts in several steps (default: on)")
      ->group(scheduling);
  command
      .add_option("--transfer-bandwidth", arguments.transfer_gigabytes,
                  "GB/s per GPU from prefill to decode replicas (default: the GPU's link)")
      ->type_name("GBPS")
      ->group(scheduling);
  add_tier_options(command, arguments.tiers);
  const char* const eviction = "What is kept";
  list("--policy", arguments.eviction.policies, "P,...",
       "Eviction policies of the profile, or all, beside the full cache", eviction);
  list("--budget", arguments.eviction.budgets, "B,...", "Their budgets (default: all in the profile)", eviction);
  command
      .add_option("--profile", arguments.eviction.profile,
                  "What policies keep and what that costs in error: a file of evictsim replay -o")
      ->type_name("run.h5")
      ->group(eviction);
  command
      .add_option("--pages", arguments.eviction.pages,
                  "longest: heads of a layer have equally many pages; per_head: each has its own")
      ->type_name("RULE")
      ->capture_default_str()
      ->group(eviction);
  const char* const workload = "What is served";
  list("--workload,-w", arguments.workloads, "W,...",
       "Traces, or poisson, gamma(cv=2), constant, closed(concurrency=64), or replay:run.h5", workload);
  list("--rate", arguments.rates, "R,...", "Requests per second; traces are stretched to it", workload);
  list("--scale-rate", arguments.scale_rates, "F,...", "Factors on the rate", workload);
  command.add_option("--duration", arguments.duration, "Seconds in which requests may arrive")
      ->type_name("S")
      ->group(workload);
  command.add_option("--requests-count", arguments.requests_count, "Requests at most (made up: 1000 by default)")
      ->type_name("N")
      ->group(workload);
  list("--seed", arguments.seeds, "S,...", "Seeds of what is made up (default: 0)", workload);
  list("--prompt-tokens", arguments.prompts, "D,...", "256, or lognormal(mean=1000,cv=1) (default: 1024)", workload);
  list("--output-tokens", arguments.outputs, "D,...", "The same for outputs (default: 256)", workload);
  list("--lengths", arguments.lengths, "FILE,...", "Draw both from a measured distribution", workload);
  list("--prefix-groups", arguments.prefix_groups, "N,...", "Groups of conversations with the same beginning",
       workload);
  list("--prefix-tokens", arguments.prefix_tokens, "N,...", "Tokens of that beginning", workload);
  list("--turns", arguments.turns, "N,...", "Turns of a conversation (default: 1)", workload);
  list("--think-time", arguments.think_times, "S,...", "Mean seconds before a user's next request", workload);
  const char* const questions = "What is asked";
  command.add_option("--slo", arguments.objectives, "Limits: ttft_p99=2s,tpot_p99=50ms,e2e_mean=30s")
      ->allow_extra_args(false)
      ->type_name("LIMITS")
      ->group(questions);
  command.add_flag("--goodput", arguments.goodput, "Search for the largest rate that meets the limits")
      ->group(questions);
  command.add_flag("--min-gpus", arguments.min_gpus, "Search for the fewest replicas that meet the limits")
      ->group(questions);
  command.add_option("--replications", arguments.replications, "Seeds of a search")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000))
      ->group(questions);
  command.add_flag("--explain", arguments.explain, "Print the KV budget line by line and every term of step times")
      ->group(questions);
  command.add_option("--points", arguments.points, "Instead: predict measured points, with -o predicted.csv")
      ->type_name("FILE")
      ->group(questions);
  const char* const outputs = "Outputs";
  command.add_option("-o,--output", arguments.plan_file, "Write everything to this HDF5 file")
      ->type_name("plan.h5")
      ->group(outputs);
  command.add_option("--csv", arguments.csv, "Write one row per combination")->type_name("plan.csv")->group(outputs);
  command.add_option("--requests", arguments.requests, "Write one row per request")->type_name("FILE")->group(outputs);
  command.add_option("--timeline", arguments.timeline, "Write a timeline for Perfetto or chrome://tracing")
      ->type_name("FILE.json")
      ->group(outputs);
  command.add_option("--threads", arguments.threads, "Threads; results do not depend on it (default: all cores)")
      ->type_name("N")
      ->check(CLI::Range(1, 4096))
      ->group(outputs);
  command.add_flag("--quiet,-q", arguments.quiet, "Print neither progress nor table")->group(outputs);
  command.add_flag("--list-models", arguments.list_models, "List the models that have a name")->group(outputs);
  command.add_flag("--list-gpus", arguments.list_gpus, "List the GPUs")->group(outputs);
  command.add_flag("--list-engines", arguments.list_engines, "List the engines")->group(outputs);
  command.add_flag("--list-storage", arguments.list_storage, "List what tiers may be made of")->group(outputs);
}

}  // namespace

void add_plan_command(CLI::App& app, const std::vector<std::string>& words) {
  const auto arguments = std::make_shared<PlanArguments>();
  arguments->command_line = shell_line(words);
  CLI::App* command = app.add_subcommand("plan", "Simulate serving: latency, throughput, goodput, GPUs needed");
  command->footer(footer);
  add_options(*command, *arguments);
  command->callback([command, arguments] {
    const bool plans = arguments->points.empty() && !arguments->list_models && !arguments->list_gpus &&
                       !arguments->list_engines && !arguments->list_storage;
    for (const char* needed : {"--model", "--gpu", "--workload"}) {
      if (plans && command->get_option(needed)->count() == 0) throw CLI::RequiredError(needed);
    }
    if (arguments->engines.empty()) arguments->engines = {"vllm"};
    TierArguments::Tier& disk = arguments->tiers.tiers[1];
    if (!disk.gib.empty() && disk.storage.empty()) disk.storage = "nvme-gen4";
    run(*arguments);
  });
}

}  // namespace evictsim
