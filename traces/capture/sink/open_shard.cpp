#include "traces/capture/sink/open_shard.h"

#include <fmt/format.h>

#include <utility>

#include "traces/checksum.h"
#include "traces/file_system.h"
#include "traces/manifest.h"
#include "traces/row_stream.h"
#include "traces/trace_file.h"
#include "traces/trace_output.h"

namespace evictsim::traces::capture {

using hdf5::Guard;
using hdf5::Node;

const char* to_string(LayerTensor tensor) noexcept {
  switch (tensor) {
    case LayerTensor::key:
      return "k";
    case LayerTensor::value:
      return "v";
    case LayerTensor::query:
      return "q";
    case LayerTensor::hidden:
      return "x";
  }
  return "";
}

std::vector<std::size_t> row_shape(LayerTensor tensor, const Header& header) {
  const auto width = static_cast<std::size_t>(header.head_dim);
  switch (tensor) {
    case LayerTensor::query:
      return {static_cast<std::size_t>(header.num_query_heads), width};
    case LayerTensor::hidden:
      return {static_cast<std::size_t>(header.hidden_size)};
    default:
      return {static_cast<std::size_t>(header.num_kv_heads), width};
  }
}

WeightStore::WeightStore(const std::filesystem::path& directory, Header header, TensorType type)
    : header_(std::move(header)), type_(type), file_(directory / "weights") {}

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

void WeightStore::copy_into(const Node& model) const {
  for (const std::string& name : file_.root().names()) {
    if (H5Ocopy(file_.root().id(), name.c_str(), model.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0) {
      throw model.error(ErrorCode::io_failure, "the weights cannot be copied into it: is the disk full?");
    }
  }
}

OpenShard::OpenShard(std::filesystem::path path, Header header, const WriterOptions& options,
                     const WeightStore* weights)
    : header_(std::move(header)), options_(options), file_(std::move(path)) {
  const Guard guard;
  model_ = file_.root().create_group("model");
  sequences_ = file_.root().create_group("sequences");
  write_header(file_.root(), model_, header_);
  if (weights != nullptr) weights->copy_into(model_);
}

std::size_t OpenShard::chunk_rows(LayerTensor tensor) const {
  return rows_per_chunk(element_count(row_shape(tensor, header_)) * hdf5::element_size(options_.tensor_type));
}

OpenShard::Sequence& OpenShard::open_sequence(int number) {
  const auto [place, is_new] = open_.try_emplace(number);
  if (is_new) {
    place->second.group = sequences_.create_group(fmt::format("{:06}", number));
    place->second.layers.resize(header_.layers.size());
    place->second.datasets.resize(header_.layers.size() * layer_tensor_count);
  }
  return place->second;
}

Node& OpenShard::dataset(Sequence& sequence, std::size_t place, LayerTensor tensor) const {
  Node& dataset = sequence.datasets[place * layer_tensor_count + static_cast<std::size_t>(tensor)];
  if (dataset.id() >= 0) return dataset;
  Node& layer = sequence.layers[place];
  if (layer.id() < 0) layer = sequence.group.create_group(layer_name(header_.layers[place]));
  std::vector<std::size_t> shape = row_shape(tensor, header_);
  shape.insert(shape.begin(), 0);
  std::vector<std::size_t> chunk = shape;
  chunk[0] = chunk_rows(tensor);
  dataset = layer.create_dataset(to_string(tensor), hdf5::tensor_type(options_.tensor_type).get(), shape, chunk,
                                 options_.compress);
  return dataset;
}

std::uint64_t OpenShard::write_chunk(int sequence, std::size_t place, LayerTensor tensor, std::size_t first,
                                     std::size_t end, const EncodedChunk& chunk) {
  const Guard guard;
  traces::write_chunk(dataset(open_sequence(sequence), place, tensor), first, end, chunk);
  return chunk.bytes.size();
}

void OpenShard::finish_sequence(int sequence, const SequenceEnd& end) {
  const Guard guard;
  Sequence& output = open_sequence(sequence);
  write_sequence_info(output.group, end.info);
  output.group.write_integers("token_ids", {end.token_ids.size()}, end.token_ids);
  for (const auto& [channel, values] : end.channels) {
    const std::vector<std::size_t> shape = channel_shape(channel, header_, end.token_ids.size());
    output.group.create_dataset(traces::to_string(channel), H5T_IEEE_F32LE, shape)
        .write_rows(shape, 0, shape[0], values.data());
  }
  const auto length = static_cast<std::size_t>(end.info.length);
  for (std::size_t place = 0; place < header_.layers.size(); ++place) {
    const auto end_at = [&](LayerTensor tensor, std::size_t rows) {
      const Node& node = dataset(output, place, tensor);
      std::vector<std::size_t> shape = node.shape();
      if (shape[0] < rows) throw node.error(ErrorCode::wrong_shape, fmt::format("must have {} rows", rows));
      if (shape[0] == rows) return;
      shape[0] = rows;
      node.resize(shape);
    };
    const std::vector<std::int32_t>& rows = end.query_rows[place];
    end_at(LayerTensor::key, length);
    end_at(LayerTensor::value, length);
    end_at(LayerTensor::query, rows.size());
    if (output.datasets[place * layer_tensor_count + static_cast<std::size_t>(LayerTensor::hidden)].id() >= 0) {
      end_at(LayerTensor::hidden, length);
    }
    // Ascending rows within [0, length) that are as many as the tokens are all of them.
    if (rows.size() != length) output.layers[place].write_integers("q_rows", {rows.size()}, rows);
  }
  open_.erase(sequence);
  ++finished_;
  tokens_ += end.info.length;
}

void OpenShard::discard_sequence(int sequence) {
  const Guard guard;
  if (open_.erase(sequence) == 0) return;
  sequences_.remove(fmt::format("{:06}", sequence));
}

bool OpenShard::seal(const Losses& losses) {
  {
    const Guard guard;
    open_.clear();
    sequences_.close();
    model_.close();
    if (finished_ == 0) return false;
    file_.root().set_attribute("dropped_rows", losses.rows);
    if (losses.rows > 0) {
      file_.root().set_attribute("capture_dropped_requests", losses.requests);
      file_.root().set_attribute("capture_last_loss", losses.last);
    }
  }
  file_.seal();
  // Not through a Reader: it starts a child process, and an engine's process is no place for that.
  const std::filesystem::path& path = file_.path();
  append_to_manifest(path.parent_path(), {.name = path.filename().string(),
                                          .sequences = finished_,
                                          .tokens = tokens_,
                                          .bytes = readable_file_size(path),
                                          .checksum = file_checksum(path)});
  return true;
}

}  // namespace evictsim::traces::capture
