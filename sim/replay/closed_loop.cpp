#include "sim/replay/closed_loop.h"

#include <algorithm>
#include <utility>

#include <tbb/parallel_for.h>

#include "sim/replay/decode_run.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/future.h"
#include "sim/replay/layer_tasks.h"
#include "sim/replay/model_selection.h"
#include "sim/replay/selection.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// Whether a policy still has a say once the prompt is cut.
bool goes_on(const policies::Policy& policy) { return cuts_while_decoding(policy) || policy.places(); }

/// What a policy looks at behind the prompt. An allocator that splits once has measured the prompt alone.
policies::Needs needs_behind_prompt(const policies::Policy& policy) {
  policies::Needs needs;
  if (policy.make_placement) needs = policy.make_placement()->needs();
  if (!cuts_while_decoding(policy)) return needs;
  needs = needs.with(policy.make_scorer ? policy.make_scorer()->needs() : policy.make_oracle()->needs());
  const bool once = policy.allocator->scope() == policies::AllocationScope::model_once;
  return once ? needs : needs.with(policy.allocator->needs());
}

/// Puts together what `step(tile)` gives for the decode rows block by block, [B, Hq * d].
template <typename Step>
Matrix by_tile(const LayerData& layer, bool by_query, const Step& step) {
  const auto rows = layer.decode_rows();
  const auto block = static_cast<std::size_t>(tile_rows(layer));
  Matrix all(std::ssize(rows), Index{layer.geometry().num_query_heads} * layer.geometry().head_dim);
  for (std::size_t first = 0; first < rows.size(); first += block) {
    const std::size_t count = std::min(block, rows.size() - first);
    Tile tile = make_tile(layer, rows.subspan(first, count), by_query, nullptr);
    tile.useful = UsefulSets(layer.geometry().num_query_heads, tile.size());
    all.middleRows(static_cast<Index>(first), static_cast<Index>(count)) = step(tile);
  }
  return all;
}

}  // namespace

std::string closed_loop_refusal(const policies::Policy& policy) {
  if (!goes_on(policy)) return {};
  const policies::Needs needs = needs_behind_prompt(policy);
  for (const traces::PacketContents& packets : needs.packets) {
    if (packets.rows) return "attends packets, which the model itself does not see";
  }
  for (const traces::Channel channel : needs.channels) {
    if (channel == traces::Channel::token_ids) continue;
    return std::string("looks at ") + traces::to_string(channel) +
           " of rows decoded, which is another one in every run";
  }
  return {};
}

ClosedLoop::ClosedLoop(const traces::Reader& reader, std::size_t sequence, const ReplayPlan& plan,
                       const ReplayOptions& options, std::vector<PromptCut> cuts, const std::set<std::size_t>& policies,
                       const std::atomic<bool>& stop)
    : sequence_(sequence),
      plan_(plan),
      options_(options),
      stop_(stop),
      geometry_(models::Geometry::of(reader.header())),
      rope_(models::Rope::of(reader.header())),
      info_(reader.sequences()[sequence]),
      random_{.seed = options.seed, .sequence = sequence} {
  for (const std::size_t index : policies) {
    if (goes_on(plan.policies[index])) needs_ = needs_.with(needs_of(plan.policies[index]));
  }
  read_layers(reader);
  kept_.resize(plan.points.size(), std::vector<KeptChain>(layers_.size()));
  for (PromptCut& cut : cuts) {
    kept_[cut.point][cut.layer] =
        std::move(build_chains({{.point = cut.point, .kept = std::move(cut.kept)}}, info_.prompt_length, 1).front());
  }
  make_ready(policies);
}

void ClosedLoop::read_layers(const traces::Reader& reader) {
  const ErrorContext where{.file = reader.path().string(), .dataset = "/sequences/" + info_.name};
  if (std::ssize(geometry_.layers) != geometry_.num_layers) {
    throw Error(ErrorCode::missing_data,
                "a closed loop needs every layer of the model, and the trace holds some of them",
                {.file = reader.path().string(),
                 .dataset = "/model/layers",
                 .value = std::to_string(geometry_.layers.size()) + " of " + std::to_string(geometry_.num_layers)});
  }
  if (info_.length == info_.prompt_length) {
    throw Error(ErrorCode::missing_data, "the sequence has no decode rows, so there is nothing to run again", where);
  }
  side_ = read_sequence_side(reader, sequence_, needs_);
  for (std::size_t slot = 0; slot < geometry_.layers.size(); ++slot) {
    const int layer = geometry_.layers[slot];
    layers_.push_back(std::make_unique<LayerData>(geometry_, rope_, info_, slot, reader.read_layer(sequence_, layer),
                                                  read_layer_side(reader, sequence_, layer, needs_, side_)));
    if (needs_.layer_input) {
      auto norm = reader.read_weight(layer, traces::LayerWeight::input_norm);
      if (!norm) throw Error(ErrorCode::missing_data, "a policy needs x and the norm before attention", where);
      input_norms_.push_back(models::Norm::of(reader.header(), std::move(norm->data)));
    }
    if (std::ssize(layers_.back()->decode_rows()) == info_.length - info_.prompt_length) continue;
    throw Error(ErrorCode::missing_data,
                "a closed loop needs the query of every decode row, also in layer " + std::to_string(layer), where);
  }
}

void ClosedLoop::make_ready(const std::set<std::size_t>& policies) {
  std::vector<ActivePolicy> going_on;
  for (const std::size_t index : policies) {
    const policies::Policy& policy = plan_.policies[index];
    if (!goes_on(policy)) continue;
    ActivePolicy active{.index = index, .needs = needs_of(policy), .points = {}};
    for (std::size_t point = 0; point < plan_.points.size(); ++point) {
      if (plan_.points[point].policy == index) active.points.push_back(point);
    }
    going_on.push_back(std::move(active));
  }
  if (going_on.empty()) return;
  for (const auto& layer : layers_) features_.push_back(make_prompt_features(*layer, needs_));
  plans_ = plans_of(std::move(going_on),
                    [this](std::size_t policy, const std::string& why) { failed_.emplace(policy, why); });
}

ModelPlans ClosedLoop::plans_of(std::vector<ActivePolicy> policies,
                                const std::function<void(std::size_t policy, const std::string& why)>& failed) {
  const SequenceContext context{.plan = plan_,
                                .options = options_,
                                .policies = std::move(policies),
                                .needs = needs_,
                                .random = random_,
                                .stop = stop_};
  const auto load = [&](std::size_t slot, const policies::Needs&) {
    return std::make_unique<LayerData>(*layers_[slot]);
  };
  return plan_model_wide(context, layers_.size(), load, failed);
}

bool ClosedLoop::splits_change(std::size_t point) {
  const std::size_t index = plan_.points[point].policy;
  const policies::Policy& policy = plan_.policies[index];
  const auto known = plans_.find(point);
  const bool each_cut = policy.allocator && policy.allocator->scope() == policies::AllocationScope::model_each_cut;
  if (!each_cut || !cuts_while_decoding(policy) || known == plans_.end()) return false;
  ModelPlans found = plans_of({{.index = index, .needs = needs_of(policy), .points = {point}}},
                              [](std::size_t, const std::string& why) { throw Error(ErrorCode::policy_failure, why); });
  const auto same = [](const RunPlan& a, const RunPlan& b) { return a.cuts == b.cuts; };
  std::vector<RunPlan>& plan = found.at(point);
  if (std::equal(plan.begin(), plan.end(), known->second.begin(), same)) return false;
  known->second = std::move(plan);
  return true;
}

LayerData& ClosedLoop::replaced(std::size_t layer, const DecodeRows& rows) {
  LayerData& data = *layers_[layer];
  data.replace_decode_rows(rows.k, rows.v, rows.q);
  if (!needs_input()) return data;
  Matrix input = models::view(rows.x.data(), decode_rows(), geometry_.hidden_size);
  input_norms_[layer].apply(input);
  data.replace_decode_input(input);
  return data;
}

Matrix ClosedLoop::change(std::size_t point, std::size_t layer, const DecodeRows& rows) {
  const LayerData& data = replaced(layer, rows);
  const ReplayPoint& at = plan_.points[point];
  const policies::Policy& policy = plan_.policies[at.policy];
  if (goes_on(policy) && !stays_whole(policy, at.budget, data)) return change_of_run(point, layer);
  return change_of_cut(data, policy, kept_[point][layer]);
}

Matrix ClosedLoop::attention(std::size_t layer, const DecodeRows& rows) {
  return by_tile(replaced(layer, rows), false, [](const Tile& tile) { return tile.output; });
}

Matrix ClosedLoop::change_of_cut(const LayerData& layer, const policies::Policy& policy, const KeptChain& chain) const {
  const PromptFeatures none;
  const LayerCache heads(layer, none, policy.granularity, random_);
  return by_tile(layer, false, [&](const Tile& tile) {
    BlockMetrics metrics(1, tile.size(), layer.geometry());
    tbb::parallel_for(0, heads.heads(), [&](int head) {
      evaluate_chain(layer, tile, chain, static_cast<std::size_t>(head), heads.cache_head(head), metrics);
    });
    return std::move(metrics.difference);
  });
}

Matrix ClosedLoop::change_of_run(std::size_t point, std::size_t slot) const {
  const LayerData& layer = *layers_[slot];
  const ReplayPoint& at = plan_.points[point];
  const policies::Policy& policy = plan_.policies[at.policy];
  const PromptFeatures& features = features_[slot];
  const LayerCache heads(layer, features, policy.granularity, random_);
  // An oracle sees the future of the run at hand.
  const FutureMass mass = policy.is_oracle() ? future_mass_of(layer) : FutureMass();
  const Future future(layer, mass);
  RunPlan plan;
  if (const auto found = plans_.find(point); found != plans_.end()) {
    plan = found->second[slot];
  } else if (!policy.never_cuts()) {
    plan.measured = policy.allocator->measure(heads);
  }
  DecodeRun run(policy, at.budget, layer, features, random_, future, std::move(plan));
  run.begin();
  return by_tile(layer, needs_.decode_attention, [&](const Tile& tile) {
    check_stop(stop_);
    BlockMetrics metrics(1, tile.size(), layer.geometry());
    run.advance(tile, {}, [&](Index r, const PlacedRow& placed) {
      tbb::parallel_for(0, heads.heads(), [&](int head) {
        evaluate_placed(layer, tile, r, placed, static_cast<std::size_t>(head), heads.cache_head(head), 0, metrics);
      });
    });
    if (!run.places()) {
      tbb::parallel_for(0, layer.geometry().num_query_heads, [&](int query_head) {
        const CacheHead head{layer.geometry().kv_head_of(query_head), query_head, 1};
        const LayerCache& cache = run.cache();
        evaluate_resident(layer, tile, cache.last_row(cache.head_of(query_head)), head, 0, metrics);
      });
    }
    return std::move(metrics.difference);
  });
}

}  // namespace evictsim::sim
