#include "traces/capture/damage/verify.h"

#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "analysis/damage/predictor.h"
#include "sim/replay/closed_loop.h"
#include "traces/capture/damage/captured_text.h"
#include "traces/capture/damage/closed_run.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

using Clock = std::chrono::steady_clock;

/// Takes policies that cannot run out of the plan, and says why.
std::vector<std::pair<std::string, std::string>> take_refused(sim::ReplayPlan& plan) {
  std::vector<std::pair<std::string, std::string>> refused;
  sim::ReplayPlan rest;
  for (std::size_t policy = 0; policy < plan.policies.size(); ++policy) {
    const std::string why = sim::closed_loop_refusal(plan.policies[policy]);
    if (!why.empty()) {
      refused.emplace_back(plan.policies[policy].name, why);
      continue;
    }
    for (const sim::ReplayPoint& point : plan.points) {
      if (point.policy == policy) rest.points.push_back({rest.policies.size(), point.budget});
    }
    rest.policies.push_back(plan.policies[policy]);
  }
  if (rest.policies.empty() && !refused.empty()) {
    throw Error(ErrorCode::invalid_argument, "cannot run in the model: it " + refused.front().second,
                {.parameter = "policy", .value = refused.front().first});
  }
  plan = std::move(rest);
  return refused;
}

bool any_needs_input(const VerifyPlan& plan) {
  return std::any_of(plan.points.policies.begin(), plan.points.policies.end(),
                     [](const policies::Policy& policy) { return policy.needs.layer_input; });
}

}  // namespace

Verification::Verification(VerifyPlan plan)
    : plan_(std::move(plan)),
      refused_(take_refused(plan_.points)),
      model_(plan_.model, plan_.engine, everything(any_needs_input(plan_))) {}

void Verification::run(const SequencePlan& text, VerifyObserver& observer, const std::atomic<bool>& stop) const {
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism,
                                  static_cast<std::size_t>(plan_.engine.threads));
  sim::ReplayPlan plan{.policies = plan_.points.policies, .points = {}};
  std::copy_if(plan_.points.points.begin(), plan_.points.points.end(), std::back_inserter(plan.points),
               [&](const sim::ReplayPoint& point) {
                 return !observer.is_known(text.id, plan.policies[point.policy].name, point.budget.text());
               });
  if (plan.points.empty()) return;
  const RunControl control{.progress = {}, .stop = &stop};
  const CapturedText captured(model_, text, plan_.trace_directory, control);
  sim::ReplayOptions options;
  options.threads = plan_.engine.threads;
  options.seed = plan_.seed;
  options.skip_missing_needs = true;
  options.summed_error_directions = analysis::summed_error_directions;
  OpenLoop open = replay_trace(captured.reader(), plan, options, stop);

  std::set<std::size_t> policies;
  for (const std::size_t point : open.points) policies.insert(plan.points[point].policy);
  for (const auto& [policy, why] : open.skipped) observer.skipped(text.id, plan.policies[policy].name, why);
  for (const auto& [policy, why] : open.failed) policies.erase(policy);
  ClosedRun closed(model_, captured.reader(), plan, options, open, policies, control);
  observer.began(text.id, closed.run_uncut());
  for (std::size_t at = 0; at < open.rows.size(); ++at) {
    control.require_running();
    const std::size_t point = open.points[at];
    analysis::TruthRow row{.model = model_.header().model, .text = text.id, .rows = closed.loop().decode_rows()};
    row.run = std::move(open.rows[at]);
    if (!captured.stays()) {
      row.run.trace.clear();
      row.run.sequence = text.id;
    }
    const auto broken = closed.loop().failed().find(plan.points[point].policy);
    if (row.run.ok() && broken != closed.loop().failed().end()) row.run.status = "failed: " + broken->second;
    if (row.run.ok()) {
      const auto start = Clock::now();
      try {
        const NextTokenChange change = closed.run(point);
        row.kl = change.kl;
        row.nll_change = change.nll_change;
        row.top1_agreement = change.top1_agreement;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::policy_failure) throw;
        row.run.status = std::string("failed: ") + error.what();
      }
      row.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
    observer.measured(row);
  }
}

}  // namespace evictsim::traces::capture
