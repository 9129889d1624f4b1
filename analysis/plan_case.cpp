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
#include "sim/serving/objective_watch.h"
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
  Answering(const PlanCase& plan, const PlanHooks& hooks) : plan_(plan), hooks_(hooks) {}

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

  /// Whether the objective is met and queues do not grow. Also called by several threads at once.
  bool passes(const sim::ServingOptions& options, const sim::Load& load, const std::string& tried) {
    if (hooks_.searching) hooks_.searching(tried);
    const auto source = plan_.workload->source(load);
    const sim::WatchedRun run =
        sim::serve_watched(options, *source, *plan_.objective, plan_.workload->most_requests(load));
    add_simulated(run.seconds);
    return run.result && plan_.objective->met(sim::ServiceMetrics::of(*run.result)) && sim::keeps_up(*run.result);
  }

  /// What the objective misses, or that queues grow.
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
        [&](double rate, std::uint64_t seed) {
          return passes(deployed.options, search_load(rate, seed), fmt::format("{:.4g} requests per second", rate));
        },
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

  /// Where a search for the fewest replicas begins. `of_one`: the rate of one with full batches. Where many are needed,
  /// a few of them, which are simulated faster, tell what one serves within the objective.
  std::int64_t about_enough(const std::function<sim::ServingOptions(std::int64_t)>& with, double rate, double of_one) {
    constexpr std::int64_t few = 4;
    double served = of_one;
    if (rate > 4 * few * of_one) {
      sim::RateSearch search;
      search.start = few * of_one;
      search.lowest = search.start / 16;
      search.highest = rate;
      search.tolerance = 0.01;
      const auto found = sim::largest_rate(
          [&](double tried) {
            return passes(with(few), search_load(tried, plan_.load.seed),
                          fmt::format("{:.4g} requests per second on {} replicas", tried, few));
          },
          search);
      served = found.value_or(search.lowest) / few;
    }
    return static_cast<std::int64_t>(std::min(std::ceil(rate / served), 1e9));
  }

  int fewest_replicas(const sim::DeployedModel& deployed, const sim::Load& load) {
    if (plan_.setup.disaggregation) {
      throw Error(ErrorCode::invalid_argument, "counts equal replicas and cannot be combined with --disaggregate",
                  {.parameter = "--min-gpus"});
    }
    const auto with = [&](std::int64_t replicas) {
      sim::ServingOptions options = deployed.options;
      options.replicas.replicas = static_cast<int>(replicas);
      return options;
    };
    sim::CountSearch search;
    search.most = std::min(most_replicas, sim::most_blocks / deployed.options.replicas.blocks);
    if (load.rate) {
      const double of_one = first_guess(deployed, plan_);
      const double lowest = std::min(*load.rate, of_one) * 1e-4;
      if (!passes(with(1), search_load(lowest, load.seed), "a request alone")) refuse(with(1), lowest);
      search.start = about_enough(with, *load.rate, of_one);
    }
    const auto enough = [&](std::int64_t replicas, std::uint64_t seed) {
      sim::Load of_seed = load;
      of_seed.seed = seed;
      return passes(with(replicas), of_seed, fmt::format("{} replica{}", replicas, replicas == 1 ? "" : "s"));
    };
    const std::optional<std::int64_t> replicas = sim::smallest_count(enough, seeds(), search);
    if (!replicas) {
      throw Error(ErrorCode::invalid_argument, fmt::format("cannot be met with up to {} replicas", search.most),
                  {.parameter = "--slo", .value = plan_.objective_text});
    }
    return static_cast<int>(*replicas);
  }

  void run(sim::DeployedModel& deployed, const sim::Load& load) {
    if (hooks_.before_run) hooks_.before_run(deployed.options);
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
                    sim::evictable_share(*plan_.setup.llm) * deployed.options.kv_bytes_per_token,
                    deployed.options.tiers.has_value(), row);
    }
    row.utilisation = metrics.utilisation;
    row.running_mean = metrics.running_mean;
    row.waiting_mean = metrics.waiting_mean;
    row.simulated_seconds = metrics.seconds;
    if (plan_.objective) row.slo_met = number(plan_.objective->met(metrics));
  }

  /// What the row says of requests that were not served; throws if none was.
  std::string status_of(const sim::DeployedModel& deployed, const sim::ServiceMetrics& metrics) const {
    const bool below = deployed.options.tiers && plan_.setup.profile && plan_.setup.profile->host_share > 0;
    const std::string memory = fmt::format("longer than the memory for {} tokens{}{}", deployed.kv_tokens(),
                                           deployed.options.chunked_prefill ? "" : " or the token budget",
                                           below ? fmt::format(" or keeps more than the {} bytes below it",
                                                               deployed.options.tiers->tiers[0].capacity_bytes)
                                                 : "");
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
  const PlanHooks& hooks_;
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

PlanAnswer answer(const PlanCase& plan, const PlanHooks& hooks) { return Answering(plan, hooks).answer(); }

}  // namespace evictsim::analysis
