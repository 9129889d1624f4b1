// Tensors inside CUDA graphs: pushed once while a graph is captured, delivered at each of its replays.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "traces/capture/sink/sink.h"

namespace evictsim::traces::capture {

std::uint64_t Sink::begin_graph(void* stream) {
  const std::lock_guard lock(mutex_);
  require_model();
  if (step_.open || graph_ != 0) throw WrongOrder("a graph is captured between steps, one at a time");
  const std::uint64_t graph = device_copier().graph_of(stream);
  if (graph == 0) throw WrongOrder("the stream is not being captured into a CUDA graph");
  graphs_[graph];
  graph_ = graph;
  return graph;
}

void Sink::end_graph() {
  const std::lock_guard lock(mutex_);
  if (graph_ == 0) throw WrongOrder("begin_graph must come first");
  graph_ = 0;
}

void Sink::add_to_graph(std::unique_lock<std::mutex>& lock, const DLTensor& tensor, Role role, int layer,
                        void* stream) {
  std::vector<RowSelection>& copied = graphs_[graph_];
  RowSelection selection{role, layer, nullptr, {}, Measure::rows};
  if (role == Role::query) selection.heads = model_.query_heads;
  if (role == Role::key || role == Role::value) selection.heads = model_.kv_heads;
  std::vector<RowSelection> selections = device_selections(std::move(selection));
  // Which row of a graph is whose is not known before it runs, and what it is compared with lies elsewhere then.
  const auto compared = std::erase_if(selections, [](const RowSelection& one) { return is_comparison(one.measure); });
  if (selections.empty() && compared > 0) {
    throw Error(
        ErrorCode::unsupported,
        "step_norm, cos_final and cos_attention are not computed inside CUDA graphs, and nothing else is wanted "
        "of this tensor; do not push it there, or leave them out of the option channels",
        {.file = {}, .dataset = {}, .parameter = "role", .value = std::to_string(static_cast<int>(role))});
  }
  DeviceCopier& copier = device_copier();
  lock.unlock();
  for (const RowSelection& wanted : selections) copier.copy(tensor, wanted, stream);
  lock.lock();
  copied.insert(copied.end(), selections.begin(), selections.end());
}

void Sink::begin_replay(std::uint64_t graph, void* stream) {
  std::unique_lock lock(mutex_);
  require_model();
  if (!step_.open) throw WrongOrder("begin_step must come first");
  if (replaying_) throw WrongOrder("the replay before has not ended");
  const auto found = graphs_.find(graph);
  if (found == graphs_.end()) {
    throw Error(ErrorCode::invalid_argument, "begin_graph gave no such number",
                {.file = {}, .dataset = {}, .parameter = "graph", .value = std::to_string(graph)});
  }
  for (const RowSelection& copied : found->second) {
    if (!is_pushed(copied.role, copied.layer)) continue;
    throw WrongOrder(fmt::format("layer {}: a tensor of the graph was pushed before in this step", copied.layer));
  }
  std::vector<RowSelection> wanted;
  const Pass pass = step_.rows->pass;
  for (RowSelection copied : found->second) {
    if (pass != Pass::sequence && !pass_takes(pass, copied.role)) continue;
    step_.pushed[push_slot(copied.role, copied.layer)] = true;
    copied.rows = rows_for(copied.role, copied.layer);
    if (copied.rows->source.empty()) continue;
    expect_rows(copied);
    wanted.push_back(std::move(copied));
  }
  const auto rows_of = [&wanted](const RowSelection& copied) -> std::shared_ptr<const RowMap> {
    const auto place = std::find_if(wanted.begin(), wanted.end(), [&](const RowSelection& one) {
      return one.role == copied.role && one.layer == copied.layer && one.measure == copied.measure;
    });
    return place == wanted.end() ? nullptr : place->rows;
  };
  DeviceCopier& copier = device_copier();
  lock.unlock();
  try {
    copier.begin_replay(graph, rows_of, stream);
  } catch (const Error&) {
    for (const RowSelection& lost : wanted) dropped(lost);
    throw;
  }
  lock.lock();
  replay_ = std::move(wanted);
  replaying_ = true;
}

void Sink::end_replay() {
  std::vector<RowSelection> wanted;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(replaying_, false)) throw WrongOrder("begin_replay must come first");
    wanted = std::exchange(replay_, {});
  }
  try {
    copier_->end_replay();
  } catch (const Error&) {
    for (const RowSelection& lost : wanted) dropped(lost);
    throw;
  }
}

}  // namespace evictsim::traces::capture
