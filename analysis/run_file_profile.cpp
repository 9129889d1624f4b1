#include "analysis/run_file_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "analysis/run_file_output.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

constexpr std::size_t most_elements = std::size_t{1} << 30U;

[[noreturn]] void refuse(const hdf5::Node& node, const std::string& what) {
  throw node.error(ErrorCode::not_a_trace, what + ": the file is damaged");
}

/// All values of a dataset of `columns` columns; 0: of one axis.
template <typename Value>
std::vector<Value> read_values(const hdf5::Node& group, const std::string& name, hid_t type, std::size_t columns = 0) {
  const hdf5::Node dataset = group.dataset(name);
  const std::vector<std::size_t> shape = dataset.shape();
  if (shape.size() != (columns == 0 ? 1U : 2U) || shape[0] > most_elements || (columns > 0 && shape[1] != columns)) {
    refuse(dataset, "has another shape than a run file's");
  }
  std::vector<Value> values(shape[0] * std::max<std::size_t>(columns, 1));
  if (!values.empty() && H5Dread(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    refuse(dataset, "cannot be read");
  }
  return values;
}

std::vector<std::string> read_texts(const hdf5::Node& group, const std::string& name) {
  const hdf5::Node dataset = group.dataset(name);
  const hdf5::Handle type(H5Dget_type(dataset.id()));
  if (H5Tis_variable_str(type.get()) <= 0) refuse(dataset, "is no text");
  const std::vector<char*> pointers = read_values<char*>(group, name, type.get());
  std::vector<std::string> texts;
  for (char* pointer : pointers) {
    texts.emplace_back(pointer == nullptr ? "" : pointer);
    H5free_memory(pointer);
  }
  return texts;
}

class Reading {
 public:
  explicit Reading(const std::filesystem::path& path) {
    std::error_code problem;
    const auto size = std::filesystem::file_size(path, problem);
    if (problem) throw Error(ErrorCode::file_not_found, problem.message(), {.file = path.string()});
    root_ = hdf5::Node::open_file(path.string(), size);
    if (!root_.has_attribute("format") || root_.text_attribute("format") != "evictsim-run") {
      throw Error(ErrorCode::not_a_trace, "is no run file: expected what `evictsim replay -o run.h5` wrote",
                  {.file = path.string()});
    }
    if (!root_.has_group("profile")) {
      throw Error(ErrorCode::missing_data,
                  "holds no /profile, so it was written by an older evictsim: run its `evictsim replay ... -o` again",
                  {.file = path.string()});
    }
  }

  std::vector<RecordedCache> read() {
    read_rows();
    read_profile();
    std::erase_if(caches_, [](const RecordedCache& cache) { return !cache.row.ok() || cache.layers.empty(); });
    return std::move(caches_);
  }

 private:
  template <typename Values>
  void require_rows(const hdf5::Node& group, const Values& values, std::size_t columns = 1) const {
    if (values.size() != caches_.size() * columns) refuse(group, "has columns of different lengths");
  }

  void read_rows() {
    const hdf5::Node group = root_.group("rows");
    for (std::string& policy : read_texts(group, "policy")) caches_.emplace_back().row.policy = std::move(policy);
    for (const auto& [name, member] : {std::pair{"budget", &RunRow::budget}, std::pair{"status", &RunRow::status},
                                       std::pair{"trace", &RunRow::trace}, std::pair{"sequence", &RunRow::sequence}}) {
      std::vector<std::string> texts = read_texts(group, name);
      require_rows(group, texts);
      for (std::size_t i = 0; i < texts.size(); ++i) caches_[i].row.*member = std::move(texts[i]);
    }
    for (const auto& [name, member] :
         {std::pair{"prompt_length", &RunRow::prompt_length}, std::pair{"decode_rows", &RunRow::decode_rows}}) {
      const auto counts = read_values<std::int64_t>(group, name, H5T_NATIVE_INT64);
      require_rows(group, counts);
      for (std::size_t i = 0; i < counts.size(); ++i) caches_[i].row.*member = counts[i];
    }
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      const auto values = read_values<double>(group, to_string(static_cast<Metric>(metric)), H5T_NATIVE_DOUBLE);
      require_rows(group, values);
      for (std::size_t i = 0; i < values.size(); ++i) caches_[i].row.metrics[metric] = values[i];
    }
  }

  void read_profile() {
    const hdf5::Node group = root_.group("profile");
    const auto steps = read_values<std::int32_t>(group, "steps", H5T_NATIVE_INT32, most_sampled_steps);
    const auto kv_heads = read_values<std::int64_t>(group, "kv_heads", H5T_NATIVE_INT64);
    const auto placed = read_values<std::int64_t>(group, "placed", H5T_NATIVE_INT64);
    const auto entry_bytes = read_values<double>(group, "entry_bytes", H5T_NATIVE_DOUBLE);
    const auto scored = read_values<double>(group, "prompt_scored_entries", H5T_NATIVE_DOUBLE);
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
    const auto element = [&](const char* name) { return read_values<std::int32_t>(group, name, H5T_NATIVE_INT32); };
    const auto rows = element("row"), layers = element("layer"), heads = element("head"), kept = element("kept");
    const auto resident = read_values<std::int32_t>(group, "resident", H5T_NATIVE_INT32, most_sampled_steps);
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
