#include "analysis/run_file_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "analysis/run_file_output.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

/// Rows of `resident` at which nothing is known: the layer has no query there.
constexpr std::uint8_t not_evaluated = 255;

void require_distinct_sequences(const std::vector<traces::Reader>& readers) {
  std::map<std::string, std::string> owners;
  for (const traces::Reader& reader : readers) {
    for (const traces::SequenceInfo& sequence : reader.sequences()) {
      const auto [owner, is_new] = owners.try_emplace(sequence.name, reader.path().string());
      if (is_new) continue;
      throw Error(
          ErrorCode::invalid_argument,
          fmt::format("sequence {} is in {} as well, and sequences name the dump's groups: dump one trace at a time",
                      sequence.name, owner->second),
          {.file = reader.path().string(), .dataset = {}, .parameter = {}, .value = {}});
    }
  }
}

hdf5::Handle create_resident(const hdf5::Node& head, std::size_t rows, std::size_t length) {
  constexpr hsize_t chunk_rows = 64;
  const std::array<hsize_t, 2> extents = {rows, length};
  const std::array<hsize_t, 2> chunk = {std::min<hsize_t>(rows, chunk_rows), length};
  const hdf5::Handle properties(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_obj_track_times(properties.get(), 0);
  H5Pset_chunk(properties.get(), 2, chunk.data());
  H5Pset_shuffle(properties.get());
  H5Pset_deflate(properties.get(), 1);
  H5Pset_fill_value(properties.get(), H5T_NATIVE_UINT8, &not_evaluated);
  const hdf5::Handle space(H5Screate_simple(2, extents.data(), nullptr));
  hdf5::Handle dataset(
      H5Dcreate2(head.id(), "resident", H5T_STD_U8LE, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT));
  if (!dataset.valid()) throw head.error(ErrorCode::io_failure, "cannot create the dataset resident");
  return dataset;
}

void write_row(const hdf5::Node& head, const hdf5::Handle& dataset, std::size_t row, const std::uint8_t* values,
               std::size_t length) {
  const std::array<hsize_t, 2> start = {row, 0};
  const std::array<hsize_t, 2> extent = {1, length};
  const hdf5::Handle file_space(H5Dget_space(dataset.get()));
  const hdf5::Handle memory_space(H5Screate_simple(2, extent.data(), nullptr));
  if (H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) < 0 ||
      H5Dwrite(dataset.get(), H5T_NATIVE_UINT8, memory_space.get(), file_space.get(), H5P_DEFAULT, values) < 0) {
    throw head.error(ErrorCode::io_failure, "the dataset resident cannot be written");
  }
}

}  // namespace

struct DumpObserver::Impl {
  Impl(const std::filesystem::path& path, const sim::ReplayPlan& replay_plan) : plan(replay_plan), file(path) {}

  [[nodiscard]] hdf5::Node budget_group(std::size_t point) const {
    const policies::Policy& policy = plan.policies[plan.points[point].policy];
    const policies::Budget& budget = plan.points[point].budget;
    const hdf5::Node policy_group = group_in(file.root(), group_name(policy.name));
    if (!policy_group.has_attribute("policy")) {
      policy_group.set_attribute("policy", policy.name);
      policy_group.set_attribute("expansion", policy.expansion);
    }
    hdf5::Node group = group_in(policy_group, budget.text());
    if (!group.has_attribute("budget")) group.set_attribute("budget", budget.value());
    return group;
  }

  [[nodiscard]] hdf5::Node sequence_group(std::size_t point) const {
    const hdf5::Node budget = budget_group(point);
    const bool is_new = !budget.has(start->name);
    hdf5::Node group = group_in(budget, start->name);
    if (is_new) group.set_attribute("trace", start->trace_path);
    return group;
  }

  [[nodiscard]] hdf5::Node layer_group(std::size_t point, std::size_t layer) const {
    return group_in(sequence_group(point), fmt::format("layer_{:03}", start->layers[layer]));
  }

  [[nodiscard]] bool has_failed(std::size_t point) const { return failures.contains(plan.points[point].policy); }

  /// Takes back what the sequence in progress wrote for these points.
  template <typename Chosen>
  void forget(Chosen chosen) const {
    for (std::size_t point = 0; point < plan.points.size(); ++point) {
      if (!chosen(point)) continue;
      const hdf5::Node budget = budget_group(point);
      if (budget.has(start->name) && H5Ldelete(budget.id(), start->name.c_str(), H5P_DEFAULT) < 0) {
        throw budget.error(ErrorCode::io_failure, "cannot remove an unfinished sequence", start->name);
      }
    }
  }

  void write_cut(const sim::PromptCut& cut) const {
    const hdf5::Node layer = layer_group(cut.point, cut.layer);
    for (std::size_t index = 0; index < cut.kept.size(); ++index) {
      const hdf5::Node head = group_in(layer, "head_" + std::to_string(index));
      head.write_integers("kept", {cut.kept[index].size()}, cut.kept[index]);
      if (index >= cut.scores.size()) continue;
      const hdf5::Node score = head.create_dataset("score", H5T_IEEE_F32LE, {cut.scores[index].size()});
      score.write_rows({cut.scores[index].size()}, 0, cut.scores[index].size(), cut.scores[index].data());
    }
  }

  void write_resident(const sim::LayerBlock& block) {
    const std::vector<std::int32_t>& all_rows = start->decode_rows;
    const auto length = static_cast<std::size_t>(start->length);
    const hdf5::Node sequence = sequence_group(block.point);
    if (!sequence.has("rows")) sequence.write_integers("rows", {all_rows.size()}, all_rows);
    const hdf5::Node layer = layer_group(block.point, block.layer);
    for (std::size_t index = 0; index < block.resident_rows.size(); ++index) {
      const hdf5::Node head = group_in(layer, "head_" + std::to_string(index));
      hdf5::Handle& dataset = resident[{block.point, block.layer, index}];
      if (!dataset.valid()) dataset = create_resident(head, all_rows.size(), length);
      const std::uint8_t* values = block.resident_rows[index].data();
      for (std::size_t row = 0; row < block.rows.size(); ++row) {
        const auto place = std::lower_bound(all_rows.begin(), all_rows.end(), block.rows[row]) - all_rows.begin();
        write_row(head, dataset, static_cast<std::size_t>(place), values + row * length, length);
      }
    }
  }

  const sim::ReplayPlan& plan;
  std::optional<sim::SequenceStart> start;  ///< of the sequence in progress
  std::set<std::size_t> failures;           ///< policies that failed in it
  PendingFile file;
  /// Open `resident` datasets of the sequence in progress by point, layer and head.
  std::map<std::array<std::size_t, 3>, hdf5::Handle> resident;
};

DumpObserver::DumpObserver(const std::filesystem::path& path, const sim::ReplayPlan& plan,
                           const std::vector<traces::Reader>& readers, sim::ReplayObserver& next)
    : ForwardingObserver(next) {
  require_distinct_sequences(readers);
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path, plan);
}

DumpObserver::~DumpObserver() {
  const hdf5::Guard guard;
  impl_.reset();
}

void DumpObserver::begin_sequence(const sim::SequenceStart& start) {
  impl_->start = start;
  impl_->failures.clear();
  ForwardingObserver::begin_sequence(start);
}

void DumpObserver::failed(std::size_t policy, const std::string& why) {
  {
    const hdf5::Guard guard;
    impl_->failures.insert(policy);
    impl_->forget([&](std::size_t point) { return impl_->plan.points[point].policy == policy; });
  }
  ForwardingObserver::failed(policy, why);
}

void DumpObserver::prompt_cut(sim::PromptCut&& cut) {
  if (!impl_->has_failed(cut.point)) {
    const hdf5::Guard guard;
    impl_->write_cut(cut);
  }
  ForwardingObserver::prompt_cut(std::move(cut));
}

void DumpObserver::layer_block(const sim::LayerBlock& block) {
  if (!block.resident_rows.empty() && !impl_->has_failed(block.point)) {
    const hdf5::Guard guard;
    impl_->write_resident(block);
  }
  ForwardingObserver::layer_block(block);
}

void DumpObserver::end_sequence() {
  impl_->start.reset();
  impl_->resident.clear();
  ForwardingObserver::end_sequence();
}

void DumpObserver::seal() {
  const hdf5::Guard guard;
  impl_->resident.clear();
  if (impl_->start) impl_->forget([](std::size_t) { return true; });
  impl_->file.seal();
}

}  // namespace evictsim::analysis
