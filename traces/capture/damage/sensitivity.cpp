#include "traces/capture/damage/sensitivity.h"

#include <fmt/format.h>
#include <tbb/global_control.h>

#include <algorithm>
#include <set>
#include <utility>

#include "policies/policy.h"
#include "traces/capture/damage/captured_text.h"
#include "traces/capture/damage/closed_run.h"
#include "traces/checksum.h"
#include "traces/error.h"
#include "traces/slice.h"

namespace evictsim::traces::capture {
namespace {

/// Half of the prompt, drawn anew for every KV head. The direction of the error matters, its size does not: what a cut
/// does points elsewhere than noise.
constexpr const char* cut = "random(seed={},protection=sinks(count=4),protection=recent(count=16))";
constexpr const char* share = "0.5";

const SensitivityPlan& checked(const SensitivityPlan& plan) {
  if (plan.draws >= 1) return plan;
  throw Error(ErrorCode::invalid_argument, "at least one draw is needed",
              {.parameter = "draws", .value = std::to_string(plan.draws)});
}

/// Above it, a quantised engine's own rounding would pass for sensitivity.
constexpr double negligible_rounding = 1e-6;

/// One point per draw.
sim::ReplayPlan plan_of(const SensitivityPlan& plan) {
  std::vector<policies::Policy> policies;
  for (int draw = 0; draw < plan.draws; ++draw) {
    // 0 would stand for the replay's own seed alone.
    policies.push_back(policies::parse_policy(fmt::format(fmt::runtime(cut), draw + 1)));
  }
  return sim::ReplayPlan::of(std::move(policies), {policies::Budget::parse(share)});
}

std::set<std::size_t> all(std::size_t count) {
  std::set<std::size_t> numbers;
  for (std::size_t i = 0; i < count; ++i) numbers.insert(i);
  return numbers;
}

}  // namespace

SensitivityProbe::SensitivityProbe(SensitivityPlan plan)
    : plan_(std::move(plan)), model_(plan_.model, checked(plan_).engine, everything(false)) {}

Sensitivity SensitivityProbe::measure(const std::vector<SequencePlan>& texts,
                                      const std::function<void(const ProbePoint&)>& done,
                                      const std::atomic<bool>& stop) const {
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism,
                                  static_cast<std::size_t>(plan_.engine.threads));
  const RunControl control{.progress = {}, .stop = &stop};
  const sim::ReplayPlan plan = plan_of(plan_);
  sim::ReplayOptions options;
  options.threads = plan_.engine.threads;
  options.seed = plan_.seed;
  const auto layers = static_cast<std::size_t>(model_.header().num_layers);
  std::vector<double> kl(layers, 0.0), squared_error(layers, 0.0);
  std::string names, lengths, rows;
  bool coarse = false;
  for (const SequencePlan& text : texts) {
    const CapturedText captured(model_, text, {}, control);
    OpenLoop open = replay_trace(captured.reader(), plan, options, stop);
    ClosedRun closed(model_, captured.reader(), plan, options, open, all(plan.policies.size()), control);
    const bool rounds = closed.run_uncut().kl > negligible_rounding;
    coarse = coarse || rounds;
    std::vector<double> rounding(layers, 0.0);
    for (std::size_t layer = 0; rounds && layer < layers; ++layer) {
      control.require_running();
      rounding[layer] = closed.run_layer_uncut(layer).kl;
    }
    for (std::size_t draw = 0; draw < plan.points.size(); ++draw) {
      for (std::size_t layer = 0; layer < layers; ++layer) {
        control.require_running();
        const ProbePoint point{.text = text.id,
                               .draw = static_cast<int>(draw),
                               .layer = static_cast<int>(layer),
                               .kl = closed.run_layer(draw, layer).kl,
                               .rounding = rounding[layer],
                               .squared_error = open.rows[draw].layer_squared_errors[layer]};
        kl[layer] += point.kl - point.rounding;
        squared_error[layer] += point.squared_error;
        done(point);
      }
    }
    const SequenceInfo& info = captured.reader().sequences().front();
    const char* separator = names.empty() ? "" : ",";
    names += separator + text.id;
    lengths += separator + std::to_string(info.prompt_length);
    rows += separator + std::to_string(info.length - info.prompt_length);
  }
  Sensitivity result;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    // A layer that is never cut, one with a sliding window, has no error that could matter.
    result.weights.push_back(squared_error[layer] > 0 ? std::max(0.0, kl[layer] / squared_error[layer]) : 0.0);
  }
  result.attributes = {{"method", "one layer cut at a time in the running model, sum of KL over sum of squared error"},
                       {"perturbation", fmt::format(fmt::runtime(cut), "draw")},
                       {"budget", share},
                       {"engine_rounding", coarse ? "KL with nothing cut was subtracted" : "none that matters"},
                       {"draws", std::to_string(plan_.draws)},
                       {"seed", std::to_string(plan_.seed)},
                       {"texts", names},
                       {"prompt_lengths", lengths},
                       {"rows", rows},
                       {"model_file", model_.path().filename().string()},
                       {"model_checksum", shard_checksum(model_.path())},
                       {"engine", model_.header().engine + " " + model_.header().engine_version},
                       {"cache_type", model_.header().extra.at("capture_cache_type")},
                       {"flash_attention", model_.header().extra.at("capture_flash_attention")}};
  return result;
}

void SensitivityProbe::store(const Sensitivity& sensitivity, const std::filesystem::path& trace,
                             const std::filesystem::path& output) const {
  const Header header = Reader(trace).header();
  const Header& own = model_.header();
  const auto require = [&](const char* attribute, int found, int expected) {
    if (found == expected) return;
    throw Error(ErrorCode::invalid_argument, fmt::format("is of another model: this one has {}", expected),
                {.file = trace.string(), .dataset = attribute, .value = std::to_string(found)});
  };
  require("num_layers", header.num_layers, own.num_layers);
  require("num_query_heads", header.num_query_heads, own.num_query_heads);
  require("num_kv_heads", header.num_kv_heads, own.num_kv_heads);
  require("head_dim", header.head_dim, own.head_dim);
  require("hidden_size", header.hidden_size, own.hidden_size);
  std::vector<double> weights;
  for (const int layer : header.layers) weights.push_back(sensitivity.weights[static_cast<std::size_t>(layer)]);
  store_sensitivity(trace, output, weights, sensitivity.attributes);
}

}  // namespace evictsim::traces::capture
