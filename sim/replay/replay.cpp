#include "sim/replay/replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/task_arena.h>

#include "models/projection.h"
#include "models/random_directions.h"
#include "models/rope.h"
#include "sim/replay/layer_replay.h"
#include "sim/replay/layer_tasks.h"
#include "sim/replay/model_selection.h"
#include "sim/replay/selection.h"
#include "sim/replay/side_data.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// The same in every run: numbers of a sequence depend on nothing but it.
constexpr std::uint64_t directions_seed = 0;

/// Places in `Header::layers` of the layers asked for.
std::vector<std::size_t> chosen_layers(const traces::Reader& reader, const std::vector<int>& wanted) {
  const std::vector<int>& captured = reader.header().layers;
  std::vector<std::size_t> places;
  if (wanted.empty()) {
    for (std::size_t place = 0; place < captured.size(); ++place) places.push_back(place);
    return places;
  }
  for (const int layer : std::set<int>(wanted.begin(), wanted.end())) {
    const auto found = std::find(captured.begin(), captured.end(), layer);
    if (found == captured.end()) {
      throw Error(ErrorCode::invalid_argument,
                  "must be captured layers; the trace has " + fmt::format("{}", fmt::join(captured, ",")),
                  {.file = reader.path().string(), .parameter = "layers", .value = std::to_string(layer)});
    }
    places.push_back(static_cast<std::size_t>(found - captured.begin()));
  }
  return places;
}

std::optional<models::OutputProjection> read_projection(const traces::Reader& reader, int layer) {
  auto w_o = reader.read_weight(layer, traces::LayerWeight::w_o);
  if (!w_o) return std::nullopt;
  std::optional<models::Norm> norm;
  if (auto weight = reader.read_weight(layer, traces::LayerWeight::output_norm)) {
    norm = models::Norm::of(reader.header(), std::move(weight->data));
  }
  const auto rows = static_cast<Index>(w_o->shape[0]);
  const auto columns = static_cast<Index>(w_o->shape[1]);
  return models::OutputProjection(models::view(w_o->data.data(), rows, columns), std::move(norm));
}

/// Tensors of layers that are done, whose memory the next layers are read into: faulting fresh memory in takes longer
/// than reading a layer. Holds at most as many as there were layers in work at once.
class SpareTensors {
 public:
  traces::LayerTensors take() {
    const std::scoped_lock lock(mutex_);
    if (spare_.empty()) return {};
    traces::LayerTensors tensors = std::move(spare_.back());
    spare_.pop_back();
    return tensors;
  }
  void give_back(traces::LayerTensors tensors) {
    const std::scoped_lock lock(mutex_);
    spare_.push_back(std::move(tensors));
  }

 private:
  std::mutex mutex_;
  std::vector<traces::LayerTensors> spare_;
};

/// One sequence: decides who takes part, then runs its layers as tasks.
class SequenceReplay {
 public:
  SequenceReplay(const traces::Reader& reader, std::size_t trace, std::size_t sequence, const ReplayPlan& plan,
                 const ReplayOptions& options, ReplayObserver& observer, SpareTensors& spare,
                 const std::atomic<bool>& stop)
      : reader_(reader),
        sequence_(sequence),
        geometry_(models::Geometry::of(reader.header())),
        rope_(models::Rope::of(reader.header())),
        layers_(chosen_layers(reader, options.layers)),
        observer_(observer),
        spare_(spare),
        context_{.plan = plan,
                 .options = options,
                 .policies = {},
                 .needs = {},
                 .random = {.seed = options.seed, .sequence = sequence},
                 .stop = stop} {
    begin(trace);
  }

  void run() {
    const LayerSink sink = locked_sink();
    select_model_wide(sink);
    std::size_t done = 0;
    for_each_layer(layers_.size(), [&](std::size_t slot) {
      run_layer(slot, sink);
      const std::scoped_lock lock(mutex_);
      observer_.progress(static_cast<double>(++done) / static_cast<double>(layers_.size()));
    });
    observer_.end_sequence();
  }

 private:
  void begin(std::size_t trace) {
    const traces::SequenceInfo& info = reader_.sequences()[sequence_];
    SequenceStart start{.trace = trace,
                        .sequence = sequence_,
                        .trace_path = reader_.path().string(),
                        .name = info.name,
                        .prompt_length = info.prompt_length,
                        .length = info.length,
                        .layers = {},
                        .decode_rows = {},
                        .query_heads = geometry_.num_query_heads,
                        .kv_heads = geometry_.num_kv_heads,
                        .head_dim = geometry_.head_dim,
                        .stored_bytes = 4};
    std::vector<std::vector<std::int32_t>> query_rows;
    std::set<std::int32_t> decode_rows;
    for (const std::size_t place : layers_) {
      const int layer = geometry_.layers[place];
      start.layers.push_back(layer);
      query_rows.push_back(reader_.query_rows(sequence_, layer));
      const auto& rows = query_rows.back();
      decode_rows.insert(std::lower_bound(rows.begin(), rows.end(), info.prompt_length), rows.end());
      if (reader_.stored_type(sequence_, layer) != traces::TensorType::float32) start.stored_bytes = 2;
    }
    start.decode_rows.assign(decode_rows.begin(), decode_rows.end());
    choose_summed_rows(start);
    observer_.begin_sequence(start);

    for (std::size_t index = 0; index < context_.plan.policies.size(); ++index) {
      const policies::Needs needs = needs_of(context_.plan.policies[index]);
      std::string lacks = missing_side(reader_, sequence_, start.layers, needs);
      if (lacks.empty()) lacks = missing(needs, query_rows, info);
      if (!lacks.empty()) {
        if (!context_.options.skip_missing_needs) {
          throw Error(ErrorCode::missing_need, lacks,
                      {.file = reader_.path().string(), .parameter = context_.plan.policies[index].name});
        }
        observer_.skipped(index, lacks);
        continue;
      }
      ActivePolicy active{.index = index, .needs = needs, .points = {}};
      for (std::size_t point = 0; point < context_.plan.points.size(); ++point) {
        if (context_.plan.points[point].policy == index) active.points.push_back(point);
      }
      if (active.points.empty()) continue;
      context_.needs = context_.needs.with(needs);
      context_.policies.push_back(std::move(active));
    }
    side_ = read_sequence_side(reader_, sequence_, context_.needs);
  }

  /// Decode rows evenly spread, of those behind which the residual stream has a length.
  void choose_summed_rows(SequenceStart& start) {
    if (context_.options.summed_error_directions < 1) return;
    const std::optional<traces::Tensor> norms = reader_.read_channel(sequence_, traces::Channel::final_norm_input);
    if (!norms) return;
    std::vector<std::int32_t> usable;
    for (const std::int32_t row : start.decode_rows) {
      const float norm = norms->data[static_cast<std::size_t>(row)];
      if (std::isfinite(norm) && norm > 0) usable.push_back(row);
    }
    const std::size_t count = std::min(usable.size(), most_summed_rows);
    for (std::size_t index = 0; index < count; ++index) {
      const std::int32_t row = usable[index * usable.size() / count];
      start.summed_rows.push_back(row);
      start.final_norms.push_back(norms->data[static_cast<std::size_t>(row)]);
    }
    if (count == 0) return;
    directions_ = models::random_directions(context_.options.summed_error_directions, reader_.header().hidden_size,
                                            directions_seed);
    context_.summed_rows = start.summed_rows;
  }

  /// Why the layers do not hold what a policy needs; names the dataset and the layers that do hold it.
  [[nodiscard]] std::string missing(const policies::Needs& needs,
                                    const std::vector<std::vector<std::int32_t>>& query_rows,
                                    const traces::SequenceInfo& info) const {
    std::string lacks;
    std::string first_lacking;
    std::vector<int> holding;
    for (std::size_t slot = 0; slot < layers_.size(); ++slot) {
      const int layer = geometry_.layers[layers_[slot]];
      const std::string need = missing_need(needs, query_rows[slot], info.prompt_length, info.length);
      if (need.empty()) {
        holding.push_back(layer);
      } else if (lacks.empty()) {
        lacks = need;
        first_lacking = fmt::format("/sequences/{}/layer_{:03d}/q", info.name, layer);
      }
    }
    if (lacks.empty()) return {};
    std::string why = fmt::format("needs {}, which {} lacks", lacks, first_lacking);
    if (!holding.empty())
      why += fmt::format("; layers {} have it (--layers {})", fmt::join(holding, ", "), fmt::join(holding, ","));
    return why;
  }

  /// Splits budgets over all layers, for the policies that ask for it; those that fail take no part in what follows.
  void select_model_wide(const LayerSink& sink) {
    const auto load = [this](std::size_t slot, const policies::Needs& needs) {
      return std::make_unique<LayerData>(load_layer(slot, needs, {}));
    };
    const auto failed = [&](std::size_t policy, const std::string& why) {
      sink.failed(policy, why);
      const std::scoped_lock lock(mutex_);
      failed_.insert(policy);
    };
    context_.plans = plan_model_wide(context_, layers_.size(), load, failed);
    std::erase_if(context_.policies, [&](const ActivePolicy& active) { return failed_.contains(active.index); });
  }

  /// Reads a layer, with what `needs` asks for besides k, v and q, into the memory of `tensors`.
  [[nodiscard]] LayerData load_layer(std::size_t slot, const policies::Needs& needs,
                                     traces::LayerTensors tensors) const {
    const int layer = geometry_.layers[layers_[slot]];
    reader_.read_layer(sequence_, layer, tensors);
    return {geometry_,
            rope_,
            reader_.sequences()[sequence_],
            layers_[slot],
            std::move(tensors),
            read_layer_side(reader_, sequence_, layer, needs, side_)};
  }

  void run_layer(std::size_t slot, const LayerSink& sink) {
    check_stop(context_.stop);
    LayerData data = load_layer(slot, context_.needs, spare_.take());
    std::optional<models::OutputProjection> projection = read_projection(reader_, data.layer());
    if (projection && directions_.size() > 0) projection->look_along(directions_);
    replay_layer(context_, data, slot, projection ? &*projection : nullptr, sink);
    spare_.give_back(std::move(data).tensors());
  }

  LayerSink locked_sink() {
    return {.prompt_cut =
                [this](PromptCut&& cut) {
                  const std::scoped_lock lock(mutex_);
                  observer_.prompt_cut(std::move(cut));
                },
            .full_block =
                [this](const FullBlock& block) {
                  const std::scoped_lock lock(mutex_);
                  observer_.full_block(block);
                },
            .layer_block =
                [this](const LayerBlock& block) {
                  const std::scoped_lock lock(mutex_);
                  observer_.layer_block(block);
                },
            .full_entries =
                [this](const FullEntries& entries) {
                  const std::scoped_lock lock(mutex_);
                  observer_.full_entries(entries);
                },
            .entry_losses =
                [this](const EntryLosses& losses) {
                  const std::scoped_lock lock(mutex_);
                  observer_.entry_losses(losses);
                },
            .failed =
                [this](std::size_t policy, const std::string& why) {
                  const std::scoped_lock lock(mutex_);
                  observer_.failed(policy, why);
                }};
  }

  const traces::Reader& reader_;
  std::size_t sequence_;
  models::Geometry geometry_;
  models::Rope rope_;
  std::vector<std::size_t> layers_;
  ReplayObserver& observer_;
  SpareTensors& spare_;
  SequenceContext context_;
  Matrix directions_;  ///< along which errors are summed over layers; empty where they are not
  SequenceSide side_;
  std::set<std::size_t> failed_;
  std::mutex mutex_;
};

}  // namespace

ReplayPlan ReplayPlan::of(std::vector<policies::Policy> policies, const std::vector<policies::Budget>& budgets) {
  ReplayPlan plan;
  plan.policies = std::move(policies);
  for (std::size_t index = 0; index < plan.policies.size(); ++index) {
    if (const auto& fixed = plan.policies[index].fixed_budget) {
      plan.points.push_back({index, *fixed});
      continue;
    }
    for (const policies::Budget& budget : budgets) plan.points.push_back({index, budget});
  }
  return plan;
}

void replay(const std::vector<traces::Reader>& readers, const ReplayPlan& plan, const ReplayOptions& options,
            ReplayObserver& observer, const std::atomic<bool>& stop) {
  if (options.useful_entries < 1) {
    throw Error(ErrorCode::invalid_argument, "must be at least 1",
                {.parameter = "useful_entries", .value = std::to_string(options.useful_entries)});
  }
  if (options.sink_entries < 0) {
    throw Error(ErrorCode::invalid_argument, "must not be negative",
                {.parameter = "sink_entries", .value = std::to_string(options.sink_entries)});
  }
  const int threads = options.threads > 0 ? options.threads : tbb::info::default_concurrency();
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  tbb::task_arena arena(threads);
  SpareTensors spare;
  arena.execute([&] {
    for (std::size_t trace = 0; trace < readers.size(); ++trace) {
      for (std::size_t sequence = 0; sequence < readers[trace].sequences().size(); ++sequence) {
        check_stop(stop);
        SequenceReplay(readers[trace], trace, sequence, plan, options, observer, spare, stop).run();
      }
    }
  });
}

}  // namespace evictsim::sim
