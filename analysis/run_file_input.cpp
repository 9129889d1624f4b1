#include "analysis/run_file_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "traces/error.h"
#include "traces/file_system.h"
#include "traces/isolation.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

constexpr std::size_t most_elements = std::size_t{1} << 30U;
constexpr std::int64_t newest_version = 1;

[[noreturn]] void refuse(const hdf5::Node& node, const std::string& what) {
  throw node.error(ErrorCode::not_a_trace, what + ": the file is damaged");
}

template <typename Value>
std::vector<Value> read_shaped(const hdf5::Node& dataset, hid_t type, const std::vector<std::size_t>& shape) {
  std::size_t count = 1;
  for (const std::size_t extent : shape) {
    if (extent != 0 && count > most_elements / extent) refuse(dataset, "has more values than any result");
    count *= extent;
  }
  std::vector<Value> values(count);
  if (!values.empty() && H5Dread(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    refuse(dataset, "cannot be read");
  }
  return values;
}

/// `columns` 0: of one axis.
template <typename Value>
std::vector<Value> read_values(const hdf5::Node& group, const std::string& name, hid_t type, std::size_t columns = 0) {
  const hdf5::Node dataset = group.dataset(name);
  const std::vector<std::size_t> shape = dataset.shape();
  if (shape.size() != (columns == 0 ? 1U : 2U) || (columns > 0 && shape[1] != columns)) {
    refuse(dataset, "has another shape than a result file's");
  }
  return read_shaped<Value>(dataset, type, shape);
}

}  // namespace

hdf5::Node open_result(const std::filesystem::path& path, const std::string& format, const std::string& made_by) {
  hdf5::Node root = hdf5::Node::open_file(path.string(), traces::readable_file_size(path));
  if (!root.has_attribute("format") || root.text_attribute("format") != format) {
    throw Error(ErrorCode::not_a_trace, fmt::format("is no {} file: expected what {} wrote", format, made_by),
                {.file = path.string()});
  }
  const std::int64_t version = root.integer_attribute("format_version");
  if (version > newest_version) {
    throw root.attribute_error("format_version", ErrorCode::unsupported_version,
                               fmt::format("is newer than this program, which reads up to version {}", newest_version),
                               std::to_string(version));
  }
  return root;
}

std::string format_of(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  const std::uint64_t size = traces::readable_file_size(path);
  const auto read = [&] {
    const hdf5::Node root = hdf5::Node::open_file(path.string(), size);
    return root.has_attribute("format") ? root.text_attribute("format") : std::string();
  };
  traces::rehearse(path, size, [&] { (void)read(); });
  return read();
}

std::vector<double> read_reals(const hdf5::Node& group, const std::string& name) {
  return read_values<double>(group, name, H5T_NATIVE_DOUBLE);
}

std::vector<std::int64_t> read_counts(const hdf5::Node& group, const std::string& name) {
  return read_values<std::int64_t>(group, name, H5T_NATIVE_INT64);
}

std::vector<std::int32_t> read_integers(const hdf5::Node& group, const std::string& name, std::size_t columns) {
  return read_values<std::int32_t>(group, name, H5T_NATIVE_INT32, columns);
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

std::vector<double> read_array(const hdf5::Node& group, const std::string& name, std::vector<std::size_t>& shape) {
  const hdf5::Node dataset = group.dataset(name);
  shape = dataset.shape();
  return read_shaped<double>(dataset, H5T_NATIVE_DOUBLE, shape);
}

std::vector<std::uint8_t> read_bytes(const hdf5::Node& group, const std::string& name,
                                     std::vector<std::size_t>& shape) {
  const hdf5::Node dataset = group.dataset(name);
  shape = dataset.shape();
  return read_shaped<std::uint8_t>(dataset, H5T_NATIVE_UINT8, shape);
}

RecordedProvenance read_provenance(const hdf5::Node& root) {
  const hdf5::Node group = root.group("provenance");
  RecordedProvenance recorded;
  recorded.evictsim_version = group.text_attribute("evictsim_version");
  recorded.command_line = group.text_attribute("command_line");
  recorded.seed = static_cast<std::uint64_t>(group.integer_attribute("seed"));
  recorded.created = group.text_attribute("created");
  recorded.complete = group.integer_attribute("complete") != 0;
  const hdf5::Node inputs = group.group("inputs");
  std::vector<std::string> paths = read_texts(inputs, "path"), checksums = read_texts(inputs, "checksum"),
                           models = read_texts(inputs, "model");
  if (checksums.size() != paths.size() || models.size() != paths.size()) {
    refuse(inputs, "has columns of different lengths");
  }
  for (std::size_t i = 0; i < paths.size(); ++i) {
    recorded.inputs.push_back({std::move(paths[i]), std::move(checksums[i]), std::move(models[i])});
  }
  return recorded;
}

std::vector<RunRow> read_rows(const hdf5::Node& root) {
  const hdf5::Node group = root.group("rows");
  std::vector<RunRow> rows(read_texts(group, "policy").size());
  const auto require_all = [&](const auto& values) {
    if (values.size() != rows.size()) refuse(group, "has columns of different lengths");
  };
  for (const auto& [name, member] : {std::pair{"policy", &RunRow::policy}, std::pair{"budget", &RunRow::budget},
                                     std::pair{"status", &RunRow::status}, std::pair{"trace", &RunRow::trace},
                                     std::pair{"sequence", &RunRow::sequence}}) {
    std::vector<std::string> texts = read_texts(group, name);
    require_all(texts);
    for (std::size_t i = 0; i < texts.size(); ++i) rows[i].*member = std::move(texts[i]);
  }
  for (const auto& [name, member] :
       {std::pair{"prompt_length", &RunRow::prompt_length}, std::pair{"decode_rows", &RunRow::decode_rows},
        std::pair{"layers", &RunRow::layers}}) {
    const std::vector<std::int64_t> counts = read_counts(group, name);
    require_all(counts);
    for (std::size_t i = 0; i < counts.size(); ++i) rows[i].*member = counts[i];
  }
  for (const auto& [name, member] : {std::pair{"damage_index_kind", &RunRow::damage_index_kind},
                                     std::pair{"prediction_status", &RunRow::prediction_status}}) {
    if (!group.has(name)) continue;
    std::vector<std::string> texts = read_texts(group, name);
    require_all(texts);
    for (std::size_t i = 0; i < texts.size(); ++i) rows[i].*member = std::move(texts[i]);
  }
  for (std::size_t metric = 0; metric < metric_count; ++metric) {
    const char* name = to_string(static_cast<Metric>(metric));
    if (!group.has(name)) continue;
    const std::vector<double> values = read_reals(group, name);
    require_all(values);
    for (std::size_t i = 0; i < values.size(); ++i) rows[i].metrics[metric] = values[i];
  }
  return rows;
}

}  // namespace evictsim::analysis
