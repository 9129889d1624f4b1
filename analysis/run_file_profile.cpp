#include "analysis/run_file_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "analysis/run_file_input.h"
#include "analysis/run_file_output.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

[[noreturn]] void refuse(const hdf5::Node& node, const std::string& what) {
  throw node.error(ErrorCode::not_a_trace, what + ": the file is damaged");
}

class Reading {
 public:
  explicit Reading(const std::filesystem::path& path) {
    root_ = open_result(path, "evictsim-run", "`evictsim replay -o run.h5`");
    if (!root_.has_group("profile")) {
      throw Error(ErrorCode::missing_data,
                  "holds no /profile, so it was written by an older evictsim: run its `evictsim replay ... -o` again",
                  {.file = path.string()});
    }
  }

  std::vector<RecordedCache> read() {
    for (RunRow& row : read_rows(root_)) {
      const std::size_t number = caches_.size();
      RecordedCache& cache = caches_.emplace_back();
      cache.number = number;
      cache.row = std::move(row);
    }
    read_profile();
    std::erase_if(caches_, [](const RecordedCache& cache) { return !cache.row.ok() || cache.layers.empty(); });
    return std::move(caches_);
  }

 private:
  template <typename Values>
  void require_rows(const hdf5::Node& group, const Values& values, std::size_t columns = 1) const {
    if (values.size() != caches_.size() * columns) refuse(group, "has columns of different lengths");
  }

  void read_profile() {
    const hdf5::Node group = root_.group("profile");
    const auto steps = read_integers(group, "steps", most_sampled_steps);
    const auto kv_heads = read_counts(group, "kv_heads");
    const auto placed = read_counts(group, "placed");
    const auto entry_bytes = read_reals(group, "entry_bytes");
    const auto scored = read_reals(group, "prompt_scored_entries");
    require_rows(group, steps, most_sampled_steps);
    require_rows(group, kv_heads);
    require_rows(group, placed);
    require_rows(group, entry_bytes);
    require_rows(group, scored);
    for (std::size_t i = 0; i < caches_.size(); ++i) {
      RecordedCache& cache = caches_[i];
      for (std::size_t sample = 0; sample < most_sampled_steps; ++sample) {
        const std::int32_t step = steps[i * most_sampled_steps + sample];
        if (step == not_sampled) break;
        if (step < cache.row.prompt_length) refuse(group, "names a decode row inside a prompt");
        cache.steps.push_back(step);
      }
      cache.kv_heads = kv_heads[i];
      cache.entry_bytes = entry_bytes[i];
      cache.prompt_scored_entries = scored[i];
      if (cache.row.prompt_length < 1 || cache.kv_heads < 1 || !(cache.entry_bytes > 0)) {
        if (cache.row.ok()) refuse(group, "describes a model of no heads or a prompt of no tokens");
      }
    }
    read_elements(group, placed);
  }

  void read_elements(const hdf5::Node& group, const std::vector<std::int64_t>& placed) {
    const auto element = [&](const char* name) { return read_integers(group, name); };
    const auto rows = element("row"), layers = element("layer"), heads = element("head"), kept = element("kept");
    const auto resident = read_integers(group, "resident", most_sampled_steps);
    if (layers.size() != rows.size() || heads.size() != rows.size() || kept.size() != rows.size() ||
        resident.size() != rows.size() * most_sampled_steps) {
      refuse(group, "has columns of different lengths");
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= caches_.size()) refuse(group, "names a row that is not");
      RecordedCache& cache = caches_[static_cast<std::size_t>(rows[i])];
      if (heads[i] == 0) cache.layers.emplace_back().placed = placed[static_cast<std::size_t>(rows[i])] != 0;
      if (cache.layers.empty() || heads[i] != static_cast<std::int32_t>(cache.layers.back().kept.size())) {
        refuse(group, "has heads out of order");
      }
      if (kept[i] < 0 || kept[i] > cache.row.prompt_length) refuse(group, "keeps more than the prompt");
      cache.layers.back().kept.push_back(kept[i]);
    }
    for (RecordedCache& cache : caches_) {
      for (LayerSizes& layer : cache.layers) layer.resident.assign(layer.kept.size() * cache.steps.size(), not_sampled);
    }
    std::vector<std::size_t> layer_of(caches_.size(), 0);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<std::size_t>(rows[i]);
      RecordedCache& cache = caches_[row];
      if (heads[i] == 0) ++layer_of[row];
      LayerSizes& layer = cache.layers[layer_of[row] - 1];
      for (std::size_t sample = 0; sample < cache.steps.size(); ++sample) {
        layer.resident[sample * layer.kept.size() + static_cast<std::size_t>(heads[i])] =
            resident[i * most_sampled_steps + sample];
      }
    }
  }

  hdf5::Node root_;
  std::vector<RecordedCache> caches_;
};

void write_integers(const hdf5::Node& group, const char* name, const std::vector<std::int32_t>& values,
                    std::size_t columns) {
  constexpr std::size_t chunk_rows = 8192;
  std::vector<std::size_t> shape = {values.size() / columns}, chunk = {chunk_rows};
  if (columns > 1) {
    shape.push_back(columns);
    chunk.push_back(columns);
  }
  const hdf5::Node dataset = group.create_dataset(name, H5T_STD_I32LE, shape, chunk, true);
  if (!values.empty() && H5Dwrite(dataset.id(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
}

}  // namespace

std::vector<RecordedCache> read_recorded_caches(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  return Reading(path).read();
}

void ProfileColumns::add(const SequenceResult& result) {
  const sim::SequenceStart& start = result.start;
  const std::vector<std::size_t> sampled = sampled_steps(start.decode_rows.size());
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    const auto number = static_cast<std::int32_t>(kv_heads.size());
    for (std::size_t sample = 0; sample < most_sampled_steps; ++sample) {
      steps.push_back(sample < sampled.size() ? start.decode_rows[sampled[sample]] : not_sampled);
    }
    kv_heads.push_back(start.kv_heads);
    entry_bytes.push_back(2.0 * start.head_dim * start.stored_bytes);
    const std::vector<LayerSizes>& layers = result.sizes[i];
    double scored = 0;
    for (std::size_t slot = 0; slot < layers.size(); ++slot) {
      const LayerSizes& sizes = layers[slot];
      scored += static_cast<double>(sizes.scored_entries);
      for (std::size_t cache_head = 0; cache_head < sizes.kept.size(); ++cache_head) {
        row.push_back(number);
        layer.push_back(start.layers[slot]);
        head.push_back(static_cast<std::int32_t>(cache_head));
        kept.push_back(sizes.kept[cache_head]);
        for (std::size_t sample = 0; sample < most_sampled_steps; ++sample) {
          resident.push_back(sample < sampled.size() ? sizes.resident[sample * sizes.kept.size() + cache_head]
                                                     : not_sampled);
        }
      }
    }
    placed.push_back(!layers.empty() && layers.front().placed ? 1 : 0);
    prompt_scored_entries.push_back(scored);
  }
}

void write_profile(const hdf5::Node& root, const ProfileColumns& columns) {
  const hdf5::Node group = root.create_group("profile");
  write_integers(group, "steps", columns.steps, most_sampled_steps);
  write_counts(group, "kv_heads", columns.kv_heads);
  write_counts(group, "placed", columns.placed);
  write_array(group, "entry_bytes", {columns.entry_bytes.size()}, columns.entry_bytes);
  write_array(group, "prompt_scored_entries", {columns.prompt_scored_entries.size()}, columns.prompt_scored_entries);
  for (const auto& [name, values] : {std::pair{"row", &columns.row}, std::pair{"layer", &columns.layer},
                                     std::pair{"head", &columns.head}, std::pair{"kept", &columns.kept}}) {
    write_integers(group, name, *values, 1);
  }
  write_integers(group, "resident", columns.resident, most_sampled_steps);
}

}  // namespace evictsim::analysis
