#include "traces/capture/sink/weight_store.h"

#include <algorithm>
#include <utility>

#include "traces/file_system.h"
#include "traces/manifest.h"
#include "traces/model_record.h"
#include "traces/row_stream.h"
#include "traces/trace_file.h"

namespace evictsim::traces::capture {

using hdf5::Guard;
using hdf5::Node;

WeightStore::WeightStore(std::filesystem::path path, Header header, TensorType type, bool shared)
    : header_(std::move(header)), type_(type), shared_(shared), file_(std::move(path)) {
  if (!shared_) return;
  file_.keep_checksum();
  const Guard guard;
  file_.root().set_attribute("format", std::string(model_record_format));
  file_.root().set_attribute("format_version", std::int64_t{1});
}

void WeightStore::add(int layer, LayerWeight weight, std::span<const float> values) {
  const Guard guard;
  const std::string name = layer_name(layer);
  const Node group = file_.root().has(name) ? file_.root().group(name) : file_.root().create_group(name);
  add(group, to_string(weight), weight_shape(weight, header_), values);
}

void WeightStore::add(ModelTensor tensor, std::span<const float> values) {
  const Guard guard;
  const auto width = static_cast<std::size_t>(header_.hidden_size);
  add(file_.root(), to_string(tensor),
      tensor == ModelTensor::unembedding ? std::vector<std::size_t>{static_cast<std::size_t>(header_.vocab_size), width}
                                         : std::vector<std::size_t>{width},
      values);
}

void WeightStore::add(const Node& group, const char* name, const std::vector<std::size_t>& shape,
                      std::span<const float> values) {
  if (group.has(name)) {
    throw Error(ErrorCode::invalid_argument, "this weight was given before",
                {.file = {}, .dataset = group.path(), .parameter = name, .value = {}});
  }
  try {
    write_tensor(group, name, type_, shape, values);
  } catch (const Error&) {
    // A refused weight must not reach the shards half written.
    if (group.has(name)) group.remove(name);
    throw;
  }
}

void WeightStore::complete() {
  if (complete_) return;
  {
    const Guard guard;
    names_ = file_.root().names();
  }
  if (shared_ && !names_.empty()) {
    file_.seal_as(model_record_name);
    const std::filesystem::path& path = file_.path();
    const std::filesystem::path directory = path.parent_path();
    const std::string name = path.filename().string();
    std::vector<Shard> known;
    std::error_code ignored;
    if (std::filesystem::exists(directory / manifest_name, ignored)) known = read_manifest(directory).model_records;
    // A capture that goes on with the same weights has written the same file again.
    if (std::none_of(known.begin(), known.end(), [&name](const Shard& record) { return record.name == name; })) {
      append_to_manifest(
          directory,
          {.name = name, .bytes = readable_file_size(path), .checksum = file_.checksum(), .model_record = true});
    }
  }
  complete_ = true;
}

void WeightStore::add_to(const Node& root, const Node& model) const {
  if (shared_ && !names_.empty()) root.set_attribute("format_minor", std::int64_t{1});
  for (const std::string& name : names_) {
    if (shared_) {
      model.link(name, {file_.path().filename().string(), "/" + name});
    } else if (H5Ocopy(file_.root().id(), name.c_str(), model.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0) {
      throw model.error(ErrorCode::io_failure, "the weights cannot be copied into it: is the disk full?");
    }
  }
}

}  // namespace evictsim::traces::capture
