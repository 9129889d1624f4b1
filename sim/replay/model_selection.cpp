#include "sim/replay/model_selection.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "sim/replay/future.h"
#include "sim/replay/layer_tasks.h"
#include "sim/replay/prompt_features.h"
#include "sim/replay/selection.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// What one layer contributes to the split of one point.
struct LayerBallot {
  std::optional<policies::LayerScores> scores;  ///< empty: the layer is left alone
  policies::AllocationRequest request;
  std::vector<double> measured;
};

/// One policy that pools layers once, after the prompt.
struct PromptPool {
  const ActivePolicy* active = nullptr;
  std::vector<std::vector<LayerBallot>> ballots;  ///< [point of the policy][slot]
};

/// Splits over the layers that take part; others have no counts.
std::vector<std::vector<Index>> allocate(const policies::Allocator& allocator,
                                         const std::vector<policies::AllocationRequest>& requests) {
  std::vector<std::vector<Index>> counts;
  for (const policies::AllocationRequest& request : requests) {
    counts.emplace_back(static_cast<std::size_t>(request.scores->heads()), 0);
  }
  allocator.allocate_model(requests, counts);
  return counts;
}

class ModelPlanner {
 public:
  ModelPlanner(const SequenceContext& context, std::size_t layers, const LoadLayer& load,
               const std::function<void(std::size_t, const std::string&)>& failed)
      : context_(context), layers_(layers), load_(load), failed_(failed) {}

  ModelPlans plan() {
    std::vector<PromptPool> pools;
    std::vector<const ActivePolicy*> together;
    for (const ActivePolicy& active : context_.policies) {
      const policies::Policy& policy = context_.plan.policies[active.index];
      const policies::AllocationScope scope = policy.allocator->scope();
      if (policy.never_cuts() || scope == policies::AllocationScope::layer) continue;
      if (scope == policies::AllocationScope::model_each_cut && cuts_while_decoding(policy)) {
        together.push_back(&active);
      } else {
        pools.push_back({.active = &active, .ballots = {}});
      }
    }
    if (!pools.empty()) pool_prompts(pools);
    if (!together.empty()) cut_together(together);
    return std::move(plans_);
  }

 private:
  void pool_prompts(std::vector<PromptPool>& pools) {
    for (PromptPool& pool : pools) {
      pool.ballots.resize(pool.active->points.size());
      for (auto& ballots : pool.ballots) ballots.resize(layers_);
    }
    std::vector<const ActivePolicy*> policies;
    for (const PromptPool& pool : pools) policies.push_back(pool.active);
    const policies::Needs needs = needs_of(policies);
    // Of each pool the first layer that failed, so that what is reported does not depend on the order of layers.
    std::vector<std::map<std::size_t, std::string>> broken(pools.size());
    std::mutex mutex;
    for_each_layer(layers_, [&](std::size_t slot) {
      check_stop(context_.stop);
      const std::unique_ptr<LayerData> layer = load_(slot, needs);
      const PromptFeatures features = make_prompt_features(*layer, needs);
      const FutureMass mass = any_oracle(policies) ? future_mass_of(*layer) : FutureMass();
      for (std::size_t i = 0; i < pools.size(); ++i) {
        run_step([&] { vote(*layer, features, mass, slot, pools[i]); },
                 [&](const char* why) {
                   const std::scoped_lock lock(mutex);
                   broken[i].emplace(slot, why);
                 });
      }
    });
    for (std::size_t i = 0; i < pools.size(); ++i) {
      if (!broken[i].empty()) {
        failed_(pools[i].active->index, broken[i].begin()->second);
        continue;
      }
      run_step([&] { count(pools[i]); }, [&](const char* why) { failed_(pools[i].active->index, why); });
    }
  }

  /// What these policies ask of a layer. The window is that of the whole sweep: attention is taken for it at once, and
  /// so has the same bits as in the layer's own replay.
  [[nodiscard]] policies::Needs needs_of(const std::vector<const ActivePolicy*>& policies) const {
    policies::Needs needs{.window_queries = context_.needs.window_queries};
    for (const ActivePolicy* active : policies) needs = needs.with(active->needs);
    return needs;
  }

  [[nodiscard]] bool any_oracle(const std::vector<const ActivePolicy*>& policies) const {
    return std::any_of(policies.begin(), policies.end(),
                       [&](const ActivePolicy* active) { return context_.plan.policies[active->index].is_oracle(); });
  }

  /// Scores one layer for every point of a policy.
  void vote(const LayerData& layer, const PromptFeatures& features, const FutureMass& mass, std::size_t slot,
            PromptPool& pool) const {
    const policies::Policy& policy = context_.plan.policies[pool.active->index];
    const LayerCache prompt(layer, features, policy.granularity, context_.random);
    const Future future(layer, mass);
    CutScorer scorer(policy, future);
    const std::vector<double> measured = policy.allocator->measure(prompt);
    std::optional<policies::LayerScores> scores;
    for (std::size_t i = 0; i < pool.active->points.size(); ++i) {
      const policies::Budget& budget = context_.plan.points[pool.active->points[i]].budget;
      if (cuts_nothing(policy, budget, layer)) continue;
      const policies::CutBudget cut_to = cut_budget(budget, prompt);
      if (!scores || scorer.depends_on_budget()) scores = scorer.score(prompt, cut_to);
      LayerBallot& ballot = pool.ballots[i][slot];
      ballot.measured = measured;
      ballot.scores = *scores;
      ballot.request = allocation_request(prompt, *ballot.scores, cut_to, {.cut = 0, .measured = ballot.measured});
    }
  }

  void count(const PromptPool& pool) {
    const policies::Policy& policy = context_.plan.policies[pool.active->index];
    for (std::size_t i = 0; i < pool.active->points.size(); ++i) {
      std::vector<policies::AllocationRequest> requests;
      std::vector<std::size_t> slots;
      std::vector<RunPlan> plans(layers_);
      for (std::size_t slot = 0; slot < layers_; ++slot) {
        const LayerBallot& ballot = pool.ballots[i][slot];
        if (!ballot.scores) continue;
        requests.push_back(ballot.request);
        slots.push_back(slot);
        plans[slot].measured = ballot.measured;
      }
      if (requests.empty()) continue;
      const auto counts = allocate(*policy.allocator, requests);
      for (std::size_t at = 0; at < slots.size(); ++at) {
        plans[slots[at]].cuts = CutPlan{{.seen = requests[at].prompt_length, .counts = counts[at]}};
      }
      plans_[pool.active->points[i]] = std::move(plans);
    }
  }

  /// Policies whose cuts happen in all layers at once: every layer in memory, all of them row by row.
  void cut_together(const std::vector<const ActivePolicy*>& policies) {
    std::vector<std::unique_ptr<LayerData>> layers(layers_);
    std::vector<PromptFeatures> features(layers_);
    std::vector<FutureMass> masses(layers_);
    const policies::Needs needs = needs_of(policies);
    for_each_layer(layers_, [&](std::size_t slot) {
      check_stop(context_.stop);
      layers[slot] = load_(slot, needs);
      features[slot] = make_prompt_features(*layers[slot], needs);
      if (any_oracle(policies)) masses[slot] = future_mass_of(*layers[slot]);
    });
    for (const ActivePolicy* active : policies) {
      const policies::Policy& policy = context_.plan.policies[active->index];
      run_step(
          [&] {
            for (const std::size_t point : active->points) {
              plans_[point] = run_together(policy, context_.plan.points[point].budget, layers, features, masses);
            }
          },
          [&](const char* why) { failed_(active->index, why); });
    }
  }

  std::vector<RunPlan> run_together(const policies::Policy& policy, const policies::Budget& budget,
                                    const std::vector<std::unique_ptr<LayerData>>& layers,
                                    const std::vector<PromptFeatures>& features,
                                    const std::vector<FutureMass>& masses) const {
    std::vector<RunPlan> plans(layers_);
    std::vector<std::unique_ptr<Future>> futures;
    std::vector<std::unique_ptr<DecodeRun>> runs;
    std::vector<std::size_t> slots;
    for (std::size_t slot = 0; slot < layers_; ++slot) {
      if (cuts_nothing(policy, budget, *layers[slot])) continue;
      const LayerCache prompt(*layers[slot], features[slot], policy.granularity, context_.random);
      plans[slot] = {.measured = policy.allocator->measure(prompt), .cuts = CutPlan()};
      slots.push_back(slot);
    }
    for (const std::size_t slot : slots) {
      futures.push_back(std::make_unique<Future>(*layers[slot], masses[slot]));
      runs.push_back(std::make_unique<DecodeRun>(policy, budget, *layers[slot], features[slot], context_.random,
                                                 *futures.back(), RunPlan{.measured = plans[slot].measured}));
    }
    if (runs.empty()) return plans;
    const auto prompt = static_cast<std::int32_t>(layers[slots.front()]->prompt_length());
    const auto length = static_cast<std::int32_t>(layers[slots.front()]->length());
    cut_all(policy, runs, slots, plans);
    for (std::int32_t row = prompt; row < length; ++row) {
      check_stop(context_.stop);
      tbb::parallel_for(std::size_t{0}, runs.size(), [&](std::size_t i) { runs[i]->arrive(row); });
      cut_all(policy, runs, slots, plans);
    }
    return plans;
  }

  static void cut_all(const policies::Policy& policy, const std::vector<std::unique_ptr<DecodeRun>>& runs,
                      const std::vector<std::size_t>& slots, std::vector<RunPlan>& plans) {
    policies::ScheduleState all = runs.front()->state();
    all.resident = all.total = all.heads = 0;
    for (const auto& run : runs) {
      const policies::ScheduleState own = run->state();
      all.resident = std::max(all.resident, own.resident);
      all.total += own.total;
      all.heads += own.heads;
    }
    if (!policy.schedule->due(all)) return;
    std::vector<DecodeRun::PendingCut> pending(runs.size());
    tbb::parallel_for(std::size_t{0}, runs.size(), [&](std::size_t i) { pending[i] = runs[i]->score(); });
    std::vector<policies::AllocationRequest> requests;
    for (std::size_t i = 0; i < runs.size(); ++i) requests.push_back(runs[i]->request(pending[i]));
    const auto counts = allocate(*policy.allocator, requests);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      plans[slots[i]].cuts->push_back({.seen = runs[i]->cache().seen(), .counts = counts[i]});
      runs[i]->cut(pending[i], &counts[i]);
    }
  }

  const SequenceContext& context_;
  std::size_t layers_;
  const LoadLayer& load_;
  const std::function<void(std::size_t, const std::string&)>& failed_;
  ModelPlans plans_;
};

}  // namespace

ModelPlans plan_model_wide(const SequenceContext& context, std::size_t layers, const LoadLayer& load,
                           const std::function<void(std::size_t policy, const std::string& why)>& failed) {
  return ModelPlanner(context, layers, load, failed).plan();
}

}  // namespace evictsim::sim
