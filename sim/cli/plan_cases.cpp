#include "sim/cli/plan_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "models/data_files.h"
#include "models/storage.h"
#include "policies/call.h"
#include "sim/cli/option_lists.h"
#include "sim/cli/plan_replayed.h"
#include "sim/cli/plan_workloads.h"
#include "traces/checksum.h"
#include "traces/error.h"

namespace evictsim {
namespace {

using analysis::PlanCase;

constexpr std::size_t most_cases = 1000000;

class Builder {
 public:
  Builder(const PlanArguments& arguments, const std::atomic<bool>& stop) : arguments_(arguments), stop_(stop) {}

  PlanCases build() {
    PlanCase first;
    first.load.stop = &stop_;
    first.load.duration = arguments_.duration;
    first.load.requests = arguments_.requests_count;
    first.setup.prefix_cache = arguments_.prefix_cache;
    first.setup.chunked_prefill = arguments_.chunked_prefill;
    if (arguments_.transfer_gigabytes) {
      check_bandwidth(*arguments_.transfer_gigabytes, "--transfer-bandwidth");
      first.setup.transfer_bytes_per_second_per_gpu = *arguments_.transfer_gigabytes * 1e9;
    }
    take_question(first);
    cases_.cases.push_back(std::move(first));
    vary_models();
    vary_layouts();
    vary_engine_options();
    vary_tiers();
    vary_workloads();
    vary_loads();
    vary_policies();
    return std::move(cases_);
  }

 private:
  [[noreturn]] static void refuse(const char* option, const char* what) {
    throw Error(ErrorCode::invalid_argument, what, {.parameter = option});
  }

  /// From a byte per second on: rates are counted in whole ones.
  static void check_bandwidth(double gigabytes_per_second, const char* option) {
    constexpr double most = 1e5;
    if (gigabytes_per_second >= 1e-9 && gigabytes_per_second <= most) return;
    throw Error(ErrorCode::invalid_argument, "expected more than 0 GB/s, at most 1e5",
                {.parameter = option, .value = fmt::format("{}", gigabytes_per_second)});
  }

  /// The product of the cases so far and the values of one option; without any, cases stay as they are.
  template <typename Value>
  void vary(const std::vector<Value>& values, const std::function<void(PlanCase&, const Value&)>& set) {
    if (values.empty()) return;
    if (cases_.cases.size() * values.size() > most_cases) {
      throw Error(ErrorCode::invalid_argument, "the lists multiply to more than a million rows");
    }
    std::vector<PlanCase> product;
    product.reserve(cases_.cases.size() * values.size());
    for (const PlanCase& known : cases_.cases) {
      for (const Value& value : values) set(product.emplace_back(known), value);
    }
    cases_.cases = std::move(product);
  }
  void vary_text(const std::vector<std::string>& lists, const char* option,
                 const std::function<void(PlanCase&, const std::string&)>& set) {
    vary<std::string>(list_elements(lists, option), set);
  }
  template <typename Number>
  void vary_number(const std::vector<std::string>& lists, const char* option, Number least, Number most,
                   const std::function<void(PlanCase&, Number)>& set) {
    vary_text(lists, option, [&](PlanCase& plan, const std::string& text) {
      set(plan, number_of<Number>(text, option, least, most));
    });
  }

  void add_input(const std::string& path, const std::string& kind) {
    for (const auto& known : cases_.inputs) {
      if (known.path == path) return;
    }
    cases_.inputs.push_back({path, traces::file_checksum(path), kind});
  }
  void add_data_input(const std::string& named, const std::string& name, const char* kind) {
    const std::vector<std::string> known = models::data_names(kind);
    const bool is_data = std::find(known.begin(), known.end(), name) != known.end();
    std::string path = is_data ? models::find_data_file(kind, name).string() : named;
    if (std::filesystem::is_directory(path)) path += "/config.json";
    add_input(path, kind);
  }

  void take_question(PlanCase& first) const {
    if (arguments_.goodput && arguments_.min_gpus) refuse("--min-gpus", "cannot be combined with --goodput");
    if (arguments_.goodput) first.question = analysis::PlanQuestion::goodput;
    if (arguments_.min_gpus) first.question = analysis::PlanQuestion::fewest_gpus;
    first.replications = arguments_.replications;
    for (const std::string& text : arguments_.objectives) {
      first.objective_text += (first.objective_text.empty() ? "" : ",") + text;
    }
    if (!first.objective_text.empty()) first.objective = sim::ServiceObjective::parse(first.objective_text);
    if (arguments_.min_gpus && !arguments_.replicas.empty()) {
      refuse("--min-gpus", "finds the number of replicas itself; leave --replicas out");
    }
    if (!arguments_.replicas.empty() && !arguments_.disaggregate.empty()) {
      refuse("--disaggregate", "gives the numbers of replicas itself; leave --replicas out");
    }
  }

  void vary_models() {
    std::map<std::string, std::shared_ptr<const models::Llm>> llms;
    vary_text(arguments_.models, "--model", [&](PlanCase& plan, const std::string& name) {
      auto& llm = llms[name];
      if (!llm) {
        llm = found_data(name, "--model", "llms", "--list-models", models::find_llm);
        add_data_input(name, llm->name, "llms");
      }
      plan.setup.llm = llm;
    });
    std::map<std::string, std::shared_ptr<const models::Gpu>> gpus;
    vary_text(arguments_.gpus, "--gpu", [&](PlanCase& plan, const std::string& name) {
      auto& gpu = gpus[name];
      if (!gpu) {
        gpu = found_data(name, "--gpu", "gpus", "--list-gpus", models::find_gpu);
        add_data_input(name, gpu->name, "gpus");
      }
      plan.setup.gpu = gpu;
    });
    std::map<std::string, std::shared_ptr<const models::Engine>> engines;
    vary_text(arguments_.engines, "--engine", [&](PlanCase& plan, const std::string& name) {
      auto& engine = engines[name];
      if (!engine) {
        engine = found_data(name, "--engine", "engines", "--list-engines", models::find_engine);
        add_data_input(name, engine->name, "engines");
      }
      plan.setup.engine = engine;
    });
  }

  void vary_layouts() {
    constexpr int most = 65536;
    vary_number<int>(arguments_.tensor_parallel, "--tensor-parallel", 1, most,
                     [](PlanCase& plan, int degree) { plan.setup.deployment.tensor_parallel = degree; });
    vary_number<int>(arguments_.pipeline_parallel, "--pipeline-parallel", 1, 1024,
                     [](PlanCase& plan, int degree) { plan.setup.deployment.pipeline_parallel = degree; });
    vary_number<int>(arguments_.attention_data_parallel, "--attention-data-parallel", 1, most,
                     [](PlanCase& plan, int copies) { plan.setup.deployment.attention_data_parallel = copies; });
    vary_number<int>(arguments_.expert_parallel, "--expert-parallel", 1, most,
                     [](PlanCase& plan, int degree) { plan.setup.deployment.moe_expert_parallel = degree; });
    vary_number<int>(arguments_.replicas, "--replicas", 1, most,
                     [](PlanCase& plan, int count) { plan.setup.replicas = count; });
    vary_text(arguments_.disaggregate, "--disaggregate", [](PlanCase& plan, const std::string& text) {
      const std::size_t colon = text.find(':');
      if (colon == std::string::npos) {
        throw Error(ErrorCode::invalid_argument, "expected prefill:decode replicas, such as 1:2",
                    {.parameter = "--disaggregate", .value = text});
      }
      plan.setup.disaggregation = {number_of<int>(text.substr(0, colon), "--disaggregate", 1, most),
                                   number_of<int>(text.substr(colon + 1), "--disaggregate", 1, most)};
    });
  }

  void vary_engine_options() {
    vary_text(arguments_.weights, "--weights", [](PlanCase& plan, const std::string& name) {
      plan.setup.deployment.weights.reset();
      if (name != "published") plan.setup.deployment.weights = models::element_type(name, "--weights");
    });
    vary_text(arguments_.kv_types, "--kv-type", [](PlanCase& plan, const std::string& name) {
      plan.setup.deployment.kv = models::element_type(name, "--kv-type");
    });
    vary_number<double>(arguments_.memory_shares, "--memory-share", 0, 1,
                        [](PlanCase& plan, double share) { plan.setup.memory_share = share; });
    constexpr std::int64_t most = std::int64_t{1} << 40U;
    vary_number<std::int64_t>(arguments_.token_budgets, "--token-budget", 1, most,
                              [](PlanCase& plan, std::int64_t tokens) { plan.setup.token_budget = tokens; });
    vary_number<std::int64_t>(arguments_.max_sequences, "--max-sequences", 1, most,
                              [](PlanCase& plan, std::int64_t count) { plan.setup.max_sequences = count; });
    vary_number<std::int64_t>(arguments_.kv_blocks, "--kv-blocks", 1, sim::most_blocks,
                              [](PlanCase& plan, std::int64_t count) { plan.setup.kv_blocks = count; });
    vary_text(arguments_.batching, "--batching", [](PlanCase& plan, const std::string& name) {
      plan.setup.batching = one_of(name, "--batching",
                                   std::array{std::pair{"continuous", sim::Batching::continuous},
                                              std::pair{"static", sim::Batching::whole_batch}});
    });
    vary_text(arguments_.preemption, "--preemption", [](PlanCase& plan, const std::string& name) {
      plan.setup.preemption = one_of(
          name, "--preemption",
          std::array{std::pair{"recompute", sim::Preemption::recompute}, std::pair{"swap", sim::Preemption::swap}});
    });
    vary_text(arguments_.routing, "--routing", [](PlanCase& plan, const std::string& name) {
      plan.setup.routing = one_of(name, "--routing",
                                  std::array{std::pair{"round_robin", sim::Routing::round_robin},
                                             std::pair{"least_loaded", sim::Routing::least_loaded},
                                             std::pair{"prefix_aware", sim::Routing::prefix_aware}});
    });
  }

  void vary_tiers() {
    const TierArguments& tiers = arguments_.tiers;
    bool any = false;
    for (const TierArguments::Tier& tier : tiers.tiers) {
      const std::string option = sim::option_of(tier.name);
      if (tier.gib.empty()) {
        if (tier.storage.empty() && !tier.gigabytes_per_second) continue;
        refuse(option.c_str(), "how much of it is there? Its speed alone makes no tier");
      }
      any = true;
      sim::TierSetup setup{.name = tier.name};
      if (tier.gigabytes_per_second) {
        const std::string bandwidth = std::string("--") + tier.name + "-bandwidth";
        check_bandwidth(*tier.gigabytes_per_second, bandwidth.c_str());
        setup.bytes_per_second_per_gpu = *tier.gigabytes_per_second * 1e9;
      }
      if (!tier.storage.empty()) {
        const std::string named = std::string("--") + tier.name + "-storage";
        setup.storage = *found_data(tier.storage, named.c_str(), "storage", "--list-storage", models::find_storage);
        add_data_input(tier.storage, setup.storage->name, "storage");
      }
      vary_number<double>(tier.gib, option.c_str(), 0, 1e9, [&](PlanCase& plan, double gib) {
        setup.gib_per_gpu = gib;
        plan.setup.tiers.tiers.push_back(setup);
      });
    }
    if (!any && !(tiers.policies.empty() && tiers.writes.empty() && tiers.rules.empty() && !tiers.layer_overlap &&
                  tiers.chunk_tokens == 0)) {
      refuse("--host-memory",
             "there is no tier to which the other options apply: give --host-memory, --disk or --remote");
    }
    vary_text(tiers.policies, "--tier-policy", [](PlanCase& plan, const std::string& text) {
      try {
        plan.setup.tiers.policy = sim::parse_replacement(text);
      } catch (const Error& problem) {
        // Those that name no parameter of the policy's name the option of `evictsim cache`.
        if (problem.context().parameter != policies::policy_option) throw;
        throw Error(problem.code(), problem.message(),
                    {.parameter = "--tier-policy", .value = problem.context().value});
      }
    });
    vary_text(tiers.writes, "--tier-write", [](PlanCase& plan, const std::string& name) {
      plan.setup.tiers.write_down =
          one_of(name, "--tier-write",
                 std::array{std::pair{"back", sim::WriteDown::back}, std::pair{"through", sim::WriteDown::through},
                            std::pair{"none", sim::WriteDown::none}});
    });
    vary_text(tiers.rules, "--load-or-recompute", [](PlanCase& plan, const std::string& name) {
      plan.setup.tiers.rule =
          one_of(name, "--load-or-recompute",
                 std::array{std::pair{"auto", sim::LoadRule::earlier}, std::pair{"load", sim::LoadRule::load},
                            std::pair{"recompute", sim::LoadRule::recompute}});
    });
    for (PlanCase& plan : cases_.cases) {
      plan.setup.tiers.layer_overlap = tiers.layer_overlap;
      plan.setup.tiers.chunk_tokens = tiers.chunk_tokens;
    }
  }

  void vary_workloads() {
    const std::vector<std::string> texts = list_elements(arguments_.workloads, "--workload");
    for (const std::string& text : texts) {
      const std::string path = replayed_path(text);
      if (path.empty()) continue;
      if (texts.size() > 1) refuse("--workload", "a replay stands alone: its rows are its policies and budgets");
      replayed_.emplace(path, page_rule(arguments_.eviction.pages));
      add_input(path, "workload");
    }
    std::vector<std::shared_ptr<const sim::ServingWorkload>> workloads;
    for (NamedWorkload& named : plan_workloads(arguments_, replayed_ ? std::vector<std::string>{} : texts)) {
      const auto& trace = named.workload->trace;
      if (trace) {
        add_input(named.text, "workload");
      } else if (named.workload->generated.lengths) {
        add_input(named.workload->generated.lengths->file, "lengths");
      }
      if (trace && trace->failed > 0) {
        cases_.warnings.push_back(
            fmt::format("{}: {} failed requests, which have no answer, are left out", named.text, trace->failed));
      }
      workloads.push_back(std::move(named.workload));
    }
    if (replayed_) {
      for (PlanCase& plan : cases_.cases) plan.workload = replayed_->workload(plan.setup);
    }
    vary<std::shared_ptr<const sim::ServingWorkload>>(
        workloads,
        [](PlanCase& plan, const std::shared_ptr<const sim::ServingWorkload>& workload) { plan.workload = workload; });
  }

  void vary_loads() {
    constexpr double most = std::numeric_limits<double>::max();
    vary_number<double>(arguments_.rates, "--rate", -most, most,
                        [](PlanCase& plan, double rate) { plan.load.rate = rate; });
    vary_number<double>(arguments_.scale_rates, "--scale-rate", -most, most,
                        [](PlanCase& plan, double factor) { plan.load.scale_rate = factor; });
    constexpr std::uint64_t most_seed = std::numeric_limits<std::int64_t>::max();  // plan.h5 holds it as int64
    vary_number<std::uint64_t>(arguments_.seeds, "--seed", 0, most_seed,
                               [](PlanCase& plan, std::uint64_t seed) { plan.load.seed = seed; });
    // What is wrong with a load is wrong in any deployment, and said before any work.
    for (const PlanCase& plan : cases_.cases) {
      if (plan.question != analysis::PlanQuestion::goodput || plan.load.rate) (void)plan.workload->rate(plan.load);
    }
  }

  void vary_policies() {
    PolicyArguments eviction = arguments_.eviction;
    eviction.policies = list_elements(eviction.policies, "--policy");
    eviction.budgets = list_elements(eviction.budgets, "--budget");
    if (replayed_) {
      if (!eviction.profile.empty()) refuse("--profile", "leave it out: the workload is a replay itself");
      eviction.profile = replayed_path(arguments_.workloads.front());
    }
    auto profiles = plan_profiles(eviction);
    // A timeline shows one row: the policy, not the full cache to compare it with.
    if (!arguments_.timeline.empty() && profiles.size() == 2) profiles.erase(profiles.begin());
    if (!eviction.profile.empty()) add_input(eviction.profile, "profile");
    cases_.policies = profiles.size();
    vary<std::shared_ptr<const sim::CacheProfile>>(
        profiles, [&](PlanCase& plan, const std::shared_ptr<const sim::CacheProfile>& profile) {
          plan.setup.profile = profile;
          if (!replayed_) return;
          plan.setup.recorded = profile != nullptr;
          plan.workload = replayed_->workload(plan.setup);
        });
  }

  const PlanArguments& arguments_;
  std::optional<ReplayedRun> replayed_;
  const std::atomic<bool>& stop_;
  PlanCases cases_;
};

}  // namespace

PlanCases plan_cases(const PlanArguments& arguments, const std::atomic<bool>& stop) {
  return Builder(arguments, stop).build();
}

}  // namespace evictsim
