// Do searches of a plan find what runs one by one say, though they begin elsewhere and give runs up, and tell what they
// try?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "analysis/plan_case.h"
#include "models/engine.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "sim/serving/goodput.h"

using namespace evictsim;
using namespace evictsim::analysis;

namespace {

PlanCase searched(PlanQuestion question, const std::string& objective, double rate) {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  PlanCase plan;
  plan.setup.llm = std::make_shared<const models::Llm>(models::find_llm("llama-3.1-8b"));
  plan.setup.gpu = std::make_shared<const models::Gpu>(models::find_gpu("l40s"));
  plan.setup.engine = std::make_shared<const models::Engine>(models::find_engine("vllm"));
  plan.setup.kv_blocks = 1000;
  plan.workload = std::make_shared<const sim::ServingWorkload>(sim::ServingWorkload::find("poisson", {}));
  plan.load.rate = rate;
  plan.load.requests = 600;
  plan.load.seed = 7;
  plan.objective = sim::ServiceObjective::parse(objective);
  plan.objective_text = objective;
  plan.question = question;
  return plan;
}

/// One run to its end, under every seed of the search.
bool passes(PlanCase plan, int replicas, double rate) {
  plan.question = PlanQuestion::service;
  plan.setup.replicas = replicas;
  plan.load.rate = rate;
  for (int seed = 0; seed < plan.replications; ++seed) {
    const PlanAnswer answered = answer(plan);
    if (answered.row.slo_met != 1 || !sim::keeps_up(answered.result)) return false;
    ++plan.load.seed;
  }
  return true;
}

}  // namespace

TEST_CASE("the fewest replicas are enough, and one less is not") {
  for (const char* objective : {"ttft_p99=2s,tpot_p99=60ms", "e2e_mean=12s", "ttft_max=5s"}) {
    for (const double rate : {3.0, 60.0}) {  // the second one begins with what a few replicas say
      CAPTURE(objective, rate);
      const PlanCase plan = searched(PlanQuestion::fewest_gpus, objective, rate);
      std::mutex mutex;
      std::vector<std::string> tried;
      PlanHooks hooks;
      hooks.searching = [&](const std::string& what) {
        const std::lock_guard lock(mutex);
        tried.push_back(what);
      };
      const PlanAnswer found = answer(plan, hooks);
      const int replicas = static_cast<int>(found.row.replicas);
      CAPTURE(replicas);
      CHECK(found.row.slo_met == 1);
      CHECK(passes(plan, replicas, rate));
      if (replicas > 1) CHECK_FALSE(passes(plan, replicas - 1, rate));
      const auto told = [&](const std::string& part) {
        return std::any_of(tried.begin(), tried.end(),
                           [&](const std::string& what) { return what.find(part) != std::string::npos; });
      };
      CHECK(told(std::to_string(replicas) + " replica"));
      CHECK(told("on 4 replicas") == (rate == 60.0));
      CHECK(tried.size() < 40);
    }
  }
}

TEST_CASE("the largest rate passes, and one a little larger does not") {
  for (const char* objective : {"ttft_p99=2s,tpot_p99=60ms", "e2e_mean=12s"}) {
    CAPTURE(objective);
    PlanCase plan = searched(PlanQuestion::goodput, objective, 1);
    plan.replications = 1;
    const PlanAnswer found = answer(plan);
    CAPTURE(found.row.goodput);
    CHECK(passes(plan, 1, found.row.goodput));
    CHECK_FALSE(passes(plan, 1, 1.03 * found.row.goodput));
  }
}
