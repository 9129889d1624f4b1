#include "sim/cli/plan_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "models/data_files.h"
#include "models/storage.h"
#include "policies/call.h"
#include "policies/names.h"
#include "sim/cli/plan_replayed.h"
#include "traces/checksum.h"
#include "traces/error.h"

namespace evictsim {
namespace {

using analysis::PlanCase;

constexpr std::size_t most_cases = 1000000;

/// The elements of an option's lists.
std::vector<std::string> elements(const std::vector<std::string>& lists, const char* option) {
  std::vector<std::string> all;
  for (const std::string& list : lists) {
    try {
      for (std::string& element : policies::split_list(list)) all.push_back(std::move(element));
    } catch (const Error& problem) {
      throw Error(problem.code(), problem.message(), {.parameter = option, .value = list});
    }
  }
  return all;
}

template <typename Number>
Number number(const std::string& text, const char* option, Number least, Number most) {
  Number value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc{} || end != text.data() + text.size() || !(value >= least && value <= most)) {
    const char* const kind = std::is_integral_v<Number> ? "whole number" : "number";
    throw Error(ErrorCode::invalid_argument,
                most == std::numeric_limits<Number>::max()
                    ? fmt::format("expected a {}", kind)
                    : fmt::format("expected a {} from {} to {}", kind, least, most),
                {.parameter = option, .value = text});
  }
  return value;
}

template <typename Value, std::size_t count>
Value one_of(const std::string& text, const char* option,
             const std::array<std::pair<const char*, Value>, count>& values) {
  std::vector<std::string> names;
  for (const auto& [name, value] : values) {
    if (text == name) return value;
    names.emplace_back(name);
  }
  throw Error(ErrorCode::unknown_name,
              fmt::format("expected one of {}; nearest: {}", policies::join(names),
                          policies::join(policies::nearest_of(text, names, 1))),
              {.parameter = option, .value = text});
}

/// `find(name)`; a name that does not exist is answered with the nearest ones of data files of that kind.
template <typename Find>
auto found(const std::string& name, const char* option, const char* kind, const char* listing, Find find) {
  try {
    return std::make_shared<const decltype(find(name))>(find(name));
  } catch (const Error& problem) {
    const std::vector<std::string> known = models::data_names(kind);
    const bool is_name = name.find('/') == std::string::npos && !name.ends_with(".json");
    // A version of an engine that exists is a matter of its own.
    const std::string stem = name.substr(0, name.find(':'));
    const bool exists = std::find(known.begin(), known.end(), stem) != known.end();
    if (problem.code() != ErrorCode::unknown_name || known.empty() || exists || !problem.context().file.empty()) throw;
    throw Error(ErrorCode::unknown_name,
                fmt::format("no such name; nearest: {}. `evictsim plan {}` lists them{}",
                            policies::join(policies::nearest_of(name, known, 3)), listing,
                            is_name ? "; or name a .json file" : ""),
                {.parameter = option, .value = name});
  }
}

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
      if (!(*arguments_.transfer_gigabytes > 0)) refuse("--transfer-bandwidth", "expected more than 0 GB/s");
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
    vary<std::string>(elements(lists, option), set);
  }
  template <typename Number>
  void vary_number(const std::vector<std::string>& lists, const char* option, Number least, Number most,
                   const std::function<void(PlanCase&, Number)>& set) {
    vary_text(lists, option,
              [&](PlanCase& plan, const std::string& text) { set(plan, number<Number>(text, option, least, most)); });
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
        llm = found(name, "--model", "llms", "--list-models", models::find_llm);
        add_data_input(name, llm->name, "llms");
      }
      plan.setup.llm = llm;
    });
    std::map<std::string, std::shared_ptr<const models::Gpu>> gpus;
    vary_text(arguments_.gpus, "--gpu", [&](PlanCase& plan, const std::string& name) {
      auto& gpu = gpus[name];
      if (!gpu) {
        gpu = found(name, "--gpu", "gpus", "--list-gpus", models::find_gpu);
        add_data_input(name, gpu->name, "gpus");
      }
      plan.setup.gpu = gpu;
    });
    std::map<std::string, std::shared_ptr<const models::Engine>> engines;
    vary_text(arguments_.engines, "--engine", [&](PlanCase& plan, const std::string& name) {
      auto& engine = engines[name];
      if (!engine) {
        engine = found(name, "--engine", "engines", "--list-engines", models::find_engine);
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
      plan.setup.disaggregation = {number<int>(text.substr(0, colon), "--disaggregate", 1, most),
                                   number<int>(text.substr(colon + 1), "--disaggregate", 1, most)};
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
      const std::string option = std::string("--") + tier.name + (tier.name == std::string("host") ? "-memory" : "");
      if (tier.gib.empty()) {
        if (tier.storage.empty() && !tier.gigabytes_per_second) continue;
        refuse(option.c_str(), "how much of it is there? Its speed alone makes no tier");
      }
      any = true;
      sim::TierSetup setup{.name = tier.name};
      if (tier.gigabytes_per_second) {
        if (!(*tier.gigabytes_per_second > 0)) refuse(option.c_str(), "expected more than 0 GB/s");
        setup.bytes_per_second_per_gpu = *tier.gigabytes_per_second * 1e9;
      }
      if (!tier.storage.empty()) {
        const std::string named = std::string("--") + tier.name + "-storage";
        setup.storage = *found(tier.storage, named.c_str(), "storage", "--list-storage", models::find_storage);
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
    vary_text(tiers.policies, "--tier-policy",
              [](PlanCase& plan, const std::string& text) { plan.setup.tiers.policy = sim::parse_replacement(text); });
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

  /// Every combination of what options say about made-up workloads.
  [[nodiscard]] std::vector<sim::GeneratedWorkload> generated_defaults() const {
    if (!arguments_.lengths.empty() && !(arguments_.prompts.empty() && arguments_.outputs.empty())) {
      refuse("--lengths", "gives prompts and outputs; leave --prompt-tokens and --output-tokens out");
    }
    std::vector<sim::GeneratedWorkload> defaults(1);
    const auto each = [&](const std::vector<std::string>& lists, const char* option, const auto& set) {
      const std::vector<std::string> values = elements(lists, option);
      if (values.empty()) return;
      std::vector<sim::GeneratedWorkload> product;
      for (const sim::GeneratedWorkload& known : defaults) {
        for (const std::string& value : values) set(product.emplace_back(known), value);
      }
      defaults = std::move(product);
    };
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    each(arguments_.prompts, "--prompt-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.prompt = sim::TokenCount::parse(text, "--prompt-tokens");
    });
    each(arguments_.outputs, "--output-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.output = sim::TokenCount::parse(text, "--output-tokens");
    });
    each(arguments_.lengths, "--lengths", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.lengths = sim::read_measured_lengths(text);
    });
    each(arguments_.prefix_groups, "--prefix-groups", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.prefix_groups = number<std::int64_t>(text, "--prefix-groups", 0, most);
    });
    each(arguments_.prefix_tokens, "--prefix-tokens", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.prefix_tokens = number<std::int64_t>(text, "--prefix-tokens", 0, most);
    });
    each(arguments_.turns, "--turns", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.turns = number<std::int64_t>(text, "--turns", 1, most);
    });
    each(arguments_.think_times, "--think-time", [](sim::GeneratedWorkload& workload, const std::string& text) {
      workload.think_seconds = number<double>(text, "--think-time", 0, 1e9);
    });
    return defaults;
  }

  void vary_workloads() {
    const std::vector<sim::GeneratedWorkload> defaults = generated_defaults();
    std::vector<std::shared_ptr<const sim::ServingWorkload>> workloads;
    bool any_made_up = false;
    const std::vector<std::string> texts = elements(arguments_.workloads, "--workload");
    for (const std::string& text : texts) {
      const std::string path = replayed_path(text);
      if (path.empty()) continue;
      if (texts.size() > 1) refuse("--workload", "a replay stands alone: its rows are its policies and budgets");
      replayed_.emplace(path, page_rule(arguments_.eviction.pages));
      add_input(path, "workload");
    }
    for (const std::string& text : texts) {
      if (replayed_) break;
      for (const sim::GeneratedWorkload& one : defaults) {
        auto workload = std::make_shared<const sim::ServingWorkload>(sim::ServingWorkload::find(text, one));
        const bool made_up = workload->random();
        any_made_up = any_made_up || made_up;
        if (!made_up) {
          add_input(text, "workload");
          if (workload->trace->failed > 0) {
            cases_.warnings.push_back(fmt::format("{}: {} failed requests, which have no answer, are left out", text,
                                                  workload->trace->failed));
          }
        } else if (workload->generated.lengths) {
          add_input(workload->generated.lengths->file, "lengths");
        }
        workloads.push_back(std::move(workload));
        if (!made_up) break;
      }
    }
    for (const auto& [option, lists] :
         {std::pair{"--prompt-tokens", &arguments_.prompts}, std::pair{"--output-tokens", &arguments_.outputs},
          std::pair{"--lengths", &arguments_.lengths}, std::pair{"--prefix-groups", &arguments_.prefix_groups},
          std::pair{"--prefix-tokens", &arguments_.prefix_tokens}, std::pair{"--turns", &arguments_.turns},
          std::pair{"--think-time", &arguments_.think_times}}) {
      if (!any_made_up && !lists->empty()) refuse(option, "applies to made-up workloads only, not to a trace");
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
    eviction.policies = elements(eviction.policies, "--policy");
    eviction.budgets = elements(eviction.budgets, "--budget");
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
