#include "analysis/plan_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "analysis/plan_eviction.h"
#include "analysis/plan_tiers.h"
#include "analysis/statistics.h"
#include "models/llm.h"
#include "policies/budget.h"
#include "sim/serving/goodput.h"
#include "sim/serving/mixed_cache.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Least length of a run of a search, when the user sets none: queues need time to grow.
constexpr double search_seconds = 60;
constexpr std::int64_t least_search_requests = 4000;
constexpr std::int64_t most_search_requests = 100000;
constexpr std::int64_t most_replicas = 1024;

const char* name_of(sim::Batching batching) { return batching == sim::Batching::continuous ? "continuous" : "static"; }
const char* name_of(sim::Preemption preemption) {
  return preemption == sim::Preemption::recompute ? "recompute" : "swap";
}
const char* name_of(sim::Routing routing) {
  switch (routing) {
    case sim::Routing::round_robin:
      return "round_robin";
    case sim::Routing::least_loaded:
      return "least_loaded";
    default:
      return "prefix_aware";
  }
}

double number(bool value) { return value ? 1 : 0; }

/// The stored type of most weights.
std::string weights_of(const sim::ServingSetup& setup) { return models::precision_name(*setup.llm, setup.deployment); }

class Answering {
 public:
  Answering(const PlanCase& plan, const BeforeRun& before_run) : plan_(plan), before_run_(before_run) {}

  PlanAnswer answer() {
    answer_.row = settings_of(plan_);
    if (plan_.question != PlanQuestion::service && !plan_.objective) {
      throw Error(ErrorCode::invalid_argument, "needs --slo, which says what is good enough",
                  {.parameter = plan_.question == PlanQuestion::goodput ? "--goodput" : "--min-gpus"});
    }
    sim::DeployedModel deployed = sim::deploy(plan_.setup);
    sim::Load load = plan_.load;
    if (plan_.question == PlanQuestion::goodput) load = load_of_goodput(deployed);
    if (plan_.question == PlanQuestion::fewest_gpus) {
      load = search_load(plan_.workload->rate(load), load.seed);
      deployed.options.replicas.replicas = fewest_replicas(deployed, load);
    }
    run(deployed, load);
    return std::move(answer_);
  }

 private:
  /// The load of a run of a search at `rate`, if there is one: long enough to show whether queues grow.
  [[nodiscard]] sim::Load search_load(std::optional<double> rate, std::uint64_t seed) const {
    sim::Load load = plan_.load;
    load.seed = seed;
    if (!rate) return load;
    load.rate = rate;
    load.scale_rate = 1;
    if (plan_.workload->random() && !load.requests && !load.duration) {
      load.requests = std::clamp(static_cast<std::int64_t>(std::ceil(*rate * search_seconds)), least_search_requests,
                                 most_search_requests);
    }
    return load;
  }

  [[nodiscard]] std::vector<std::uint64_t> seeds() const {
    std::vector<std::uint64_t> seeds = {plan_.load.seed};
    const int count = plan_.workload->random() ? plan_.replications : 1;
    while (static_cast<int>(seeds.size()) < count) seeds.push_back(seeds.back() + 1);
    return seeds;
  }

  /// What the objective misses, or that queues grow; empty if all is well. Also called by several threads at once.
  std::string misses(const sim::ServingOptions& options, const sim::Load& load) {
    const auto source = plan_.workload->source(load);
    const sim::ServingResult result = sim::serve(options, *source);
    add_simulated(sim::to_seconds(result.end));
    std::string missed = plan_.objective->misses(sim::ServiceMetrics::of(result));
    if (missed.empty() && !sim::keeps_up(result)) missed = "requests come faster than they leave";
    return missed;
  }

  void add_simulated(double seconds) { simulated_.fetch_add(seconds); }

  /// An objective that even requests alone miss cannot be met; says which limit.
  [[noreturn]] void refuse(const sim::ServingOptions& options, double lowest) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("cannot be met: {} even at {:.2g} requests per second",
                            misses(options, search_load(lowest, plan_.load.seed)), lowest),
                {.parameter = "--slo", .value = plan_.objective_text});
  }

  sim::Load load_of_goodput(const sim::DeployedModel& deployed) {
    if (plan_.workload->closed()) {
      throw Error(ErrorCode::invalid_argument, "a closed loop has no rate to search for",
                  {.parameter = "--goodput", .value = plan_.workload->name()});
    }
    if (plan_.load.scale_rate != 1) {
      throw Error(ErrorCode::invalid_argument, "--goodput searches for the rate itself",
                  {.parameter = "--scale-rate", .value = fmt::format("{}", plan_.load.scale_rate)});
    }
    sim::RateSearch search;
    search.start = plan_.load.rate.value_or(first_guess(deployed, plan_));
    search.lowest = search.start * 1e-4;
    search.highest = std::min(1e9, search.start * 1e4);
    const std::vector<std::uint64_t> tried = seeds();
    const auto found = sim::largest_rates(
        [&](double rate, std::uint64_t seed) { return misses(deployed.options, search_load(rate, seed)).empty(); },
        tried, search);
    std::vector<double> rates;
    for (const std::optional<double>& rate : found) {
      if (!rate) refuse(deployed.options, search.lowest);
      rates.push_back(*rate);
    }
    const Estimate estimate = student_estimate(rates);
    answer_.row.goodput = estimate.mean;
    answer_.row.goodput_low = std::max(0.0, estimate.low);
    answer_.row.goodput_high = estimate.high;
    if (std::isnan(estimate.low)) answer_.row.goodput_low = estimate.low;
    return search_load(rates.front(), plan_.load.seed);
  }

  int fewest_replicas(const sim::DeployedModel& deployed, const sim::Load& load) {
    if (plan_.setup.disaggregation) {
      throw Error(ErrorCode::invalid_argument, "counts equal replicas and cannot be combined with --disaggregate",
                  {.parameter = "--min-gpus"});
    }
    sim::ServingOptions options = deployed.options;
    if (load.rate) {
      options.replicas.replicas = 1;
      const double lowest = std::min(*load.rate, first_guess(deployed, plan_)) * 1e-4;
      if (!misses(options, search_load(lowest, load.seed)).empty()) refuse(options, lowest);
    }
    const auto passes = [&](std::int64_t replicas) {
      options.replicas.replicas = static_cast<int>(replicas);
      const std::vector<std::uint64_t> tried = seeds();
      return std::all_of(tried.begin(), tried.end(), [&](std::uint64_t seed) {
        sim::Load of_seed = load;
        of_seed.seed = seed;
        return misses(options, of_seed).empty();
      });
    };
    const std::int64_t most = std::min(most_replicas, sim::most_blocks / options.replicas.blocks);
    const std::optional<std::int64_t> replicas = sim::smallest_count(passes, most);
    if (!replicas) {
      throw Error(ErrorCode::invalid_argument, fmt::format("cannot be met with up to {} replicas", most),
                  {.parameter = "--slo", .value = plan_.objective_text});
    }
    return static_cast<int>(*replicas);
  }

  void run(sim::DeployedModel& deployed, const sim::Load& load) {
    if (before_run_) before_run_(deployed.options);
    const auto source = plan_.workload->source(load);
    answer_.result = sim::serve(deployed.options, *source);
    add_simulated(sim::to_seconds(answer_.result.end));
    answer_.simulated_seconds = simulated_.load();
    answer_.background = {PlanSeries::of(answer_.result, deployed.options.replicas.block_tokens),
                          deployed.budget.lines};
    fill(deployed, load);
  }

  void fill(const sim::DeployedModel& deployed, const sim::Load& load) {
    PlanRow& row = answer_.row;
    const sim::ServiceMetrics metrics = sim::ServiceMetrics::of(answer_.result);
    row.status = status_of(deployed, metrics);
    row.rate = plan_.workload->rate(load).value_or(PlanRow::none);
    if (plan_.question == PlanQuestion::fewest_gpus) {
      row.replicas = deployed.options.replicas.replicas;
      row.gpus = row.replicas * plan_.setup.deployment.gpus();
    }
    row.requests = static_cast<double>(metrics.requests);
    row.completed = static_cast<double>(metrics.completed);
    row.refused = static_cast<double>(metrics.refused);
    row.ttft_mean = metrics.ttft.mean();
    row.ttft_p50 = metrics.ttft.quantile(0.5);
    row.ttft_p90 = metrics.ttft.quantile(0.9);
    row.ttft_p99 = metrics.ttft.quantile(0.99);
    row.tpot_mean = metrics.tpot.mean();
    row.tpot_p50 = metrics.tpot.quantile(0.5);
    row.tpot_p90 = metrics.tpot.quantile(0.9);
    row.tpot_p99 = metrics.tpot.quantile(0.99);
    row.e2e_mean = metrics.e2e.mean();
    row.e2e_p50 = metrics.e2e.quantile(0.5);
    row.e2e_p90 = metrics.e2e.quantile(0.9);
    row.e2e_p99 = metrics.e2e.quantile(0.99);
    row.output_tokens_per_second = metrics.output_tokens_per_second;
    row.total_tokens_per_second = metrics.total_tokens_per_second;
    row.requests_per_second = metrics.completed_per_second;
    row.kv_capacity_tokens = static_cast<double>(deployed.kv_tokens());
    row.kv_peak_tokens = static_cast<double>(metrics.peak_used_blocks) * deployed.options.replicas.block_tokens;
    row.batch_mean = metrics.batch_mean;
    row.preemptions = static_cast<double>(metrics.preemptions);
    row.prefix_hit_rate = metrics.prefix_hit_rate;
    row.recall_bytes_per_second = 0;
    fill_tiers(deployed.options, metrics, row);
    for (const sim::ReplicaTotals& replica : answer_.result.replicas) {
      row.recall_bytes_per_second += static_cast<double>(replica.recalled_bytes) / metrics.seconds;
    }
    if (plan_.setup.profile && !plan_.setup.recorded) {
      fill_eviction(*plan_.setup.profile, answer_.result,
                    sim::evictable_share(*plan_.setup.llm) * deployed.options.kv_bytes_per_token, row);
    }
    row.utilisation = metrics.utilisation;
    row.running_mean = metrics.running_mean;
    row.waiting_mean = metrics.waiting_mean;
    row.simulated_seconds = metrics.seconds;
    if (plan_.objective) row.slo_met = number(plan_.objective->met(metrics));
  }

  /// What the row says of requests that were not served; throws if none was.
  std::string status_of(const sim::DeployedModel& deployed, const sim::ServiceMetrics& metrics) const {
    const std::string memory = fmt::format("longer than the memory for {} tokens{}", deployed.kv_tokens(),
                                           deployed.options.chunked_prefill ? "" : " or the token budget");
    if (metrics.requests == 0) {
      throw Error(ErrorCode::missing_data, "no request arrives: give a longer --duration or a larger --rate",
                  {.parameter = "--workload", .value = plan_.workload->name()});
    }
    if (metrics.completed == 0) {
      throw Error(ErrorCode::invalid_argument, "every request is " + memory,
                  {.parameter = "--workload", .value = plan_.workload->name()});
    }
    if (metrics.refused == 0) return "ok";
    return fmt::format("refused {} of {} requests: {}", metrics.refused, metrics.requests, memory);
  }

  const PlanCase& plan_;
  const BeforeRun& before_run_;
  PlanAnswer answer_;
  std::atomic<double> simulated_ = 0;
};

}  // namespace

PlanRow settings_of(const PlanCase& plan) {
  const sim::ServingSetup& setup = plan.setup;
  const models::Engine& engine = *setup.engine;
  PlanRow row;
  row.model = setup.llm->name;
  row.gpu = setup.gpu->name;
  row.engine = engine.version.empty() ? engine.name : engine.name + ":" + engine.version;
  row.tensor_parallel = setup.deployment.tensor_parallel;
  row.pipeline_parallel = setup.deployment.pipeline_parallel;
  row.attention_data_parallel = setup.deployment.attention_data_parallel;
  if (models::has_experts(*setup.llm)) row.expert_parallel = std::max(setup.deployment.moe_expert_parallel, 1);
  row.replicas = setup.replica_count();
  row.gpus = setup.gpus();
  if (setup.disaggregation) {
    row.prefill_replicas = setup.disaggregation->prefill;
    row.decode_replicas = setup.disaggregation->decode;
  }
  row.output_error = 0;
  row.predicted_kl = 0;
  if (setup.profile) {
    row.policy = setup.profile->policy;
    row.budget = policies::Budget::parse(setup.profile->budget).value();
    row.output_error = setup.profile->output_error;
    row.predicted_kl = setup.profile->predicted_kl;
  }
  row.workload = plan.workload->name();
  // A rate that is wrong is reported by the run.
  if (plan.load.rate) row.rate = *plan.load.rate * plan.load.scale_rate;
  row.weights = weights_of(setup);
  row.kv_type = models::to_string(setup.deployment.kv);
  row.memory_share = setup.memory_share.value_or(engine.memory_share);
  row.token_budget = static_cast<double>(setup.token_budget.value_or(engine.token_budget));
  row.max_sequences = static_cast<double>(setup.max_sequences.value_or(engine.max_sequences));
  row.batching = name_of(setup.batching);
  row.preemption = name_of(setup.preemption);
  row.routing = name_of(setup.routing);
  row.prefix_cache = number(setup.prefix_cache);
  row.chunked_prefill = number(setup.chunked_prefill);
  set_tiers(setup.tiers, row);
  row.slo = plan.objective_text;
  row.seed = static_cast<double>(plan.load.seed);
  return row;
}

MeanLengths mean_lengths(const PlanCase& plan) {
  constexpr int sampled = 100;
  sim::Load load = plan.load;
  load.duration.reset();
  load.scale_rate = 1;
  load.rate.reset();
  if (plan.workload->random() && !plan.workload->closed()) load.rate = 1;
  const auto source = plan.workload->source(load);
  MeanLengths sum;
  double count = 0;
  while (count < sampled) {
    const auto request = source->next();
    if (!request) break;
    sum.prompt += static_cast<double>(request->prompt_tokens);
    sum.output += static_cast<double>(request->output_tokens);
    ++count;
  }
  return {sum.prompt / count, sum.output / count};
}

double first_guess(const sim::DeployedModel& deployed, const PlanCase& plan) {
  const auto [prompt, output] = mean_lengths(plan);
  const double context = prompt + output / 2;
  const sim::ReplicaGroup& group = deployed.options.replicas;
  const double batch =
      std::clamp(static_cast<double>(deployed.kv_tokens()) / context, 1.0, static_cast<double>(group.max_sequences));
  models::MeanStepWork work;
  work.decode_sequences = batch;
  work.decode_entries = batch * context;
  work.prefill_sequences = batch / output;
  work.prefill_tokens = work.prefill_context = prompt * work.prefill_sequences;
  work.prefill_pairs = prompt * prompt / 2 * work.prefill_sequences;
  return group.replicas * batch / (output * deployed.step_time.seconds(work));
}

PlanAnswer answer(const PlanCase& plan, const BeforeRun& before_run) { return Answering(plan, before_run).answer(); }

}  // namespace evictsim::analysis
