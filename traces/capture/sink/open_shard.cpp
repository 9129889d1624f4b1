#include "traces/capture/sink/open_shard.h"

#include <fmt/format.h>

#include <utility>

#include "traces/file_system.h"
#include "traces/hdf5_driver.h"
#include "traces/manifest.h"
#include "traces/packet_storage.h"
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

namespace {

Node group_in(const Node& parent, const std::string& name) {
  return parent.has(name) ? parent.group(name) : parent.create_group(name);
}

/// The group of a pass beside the sequence.
Node pass_group(const Node& sequence, Pass pass) {
  return pass == Pass::second ? group_in(sequence, "second_pass")
                              : group_in(group_in(sequence, "packets"), to_string(set_of(pass)));
}

std::string dataset_name(const DatasetPlace& place) {
  return (is_behind(place.pass) ? "after_" : "") + std::string(to_string(place.tensor));
}

/// Ends a dataset at row `rows`.
void cut(const Node& dataset, std::size_t rows) {
  std::vector<std::size_t> shape = dataset.shape();
  if (shape[0] < rows) throw dataset.error(ErrorCode::wrong_shape, fmt::format("must have {} rows", rows));
  if (shape[0] == rows) return;
  shape[0] = rows;
  dataset.resize(shape);
}

}  // namespace

OpenShard::OpenShard(std::filesystem::path path, Header header, const WriterOptions& options, WeightStore* weights)
    : header_(std::move(header)), options_(options), file_(std::move(path), options.compress ? 1 : checksum_block) {
  if (weights != nullptr) weights->complete();
  file_.keep_checksum();
  const Guard guard;
  model_ = file_.root().create_group("model");
  sequences_ = file_.root().create_group("sequences");
  write_header(file_.root(), model_, header_);
  if (weights != nullptr) weights->add_to(file_.root(), model_);
}

OpenShard::Sequence& OpenShard::open_sequence(int number) {
  const auto [place, is_new] = open_.try_emplace(number);
  if (is_new) {
    place->second.group = sequences_.create_group(fmt::format("{:06}", number));
    for (Rows& rows : place->second.passes) {
      rows.layers.resize(header_.layers.size());
      rows.datasets.resize(header_.layers.size() * layer_tensor_count);
    }
  }
  return place->second;
}

Node& OpenShard::dataset(Sequence& sequence, const DatasetPlace& place) const {
  Rows& rows = sequence.passes[static_cast<std::size_t>(place.pass)];
  Node& dataset = rows.datasets[place.layer * layer_tensor_count + static_cast<std::size_t>(place.tensor)];
  if (dataset.id() >= 0) return dataset;
  Node& layer = rows.layers[place.layer];
  if (layer.id() < 0) {
    const std::string name = layer_name(header_.layers[place.layer]);
    layer = place.pass == Pass::sequence ? group_in(sequence.group, name)
                                         : group_in(pass_group(sequence.group, place.pass), name);
  }
  std::vector<std::size_t> shape = row_shape(place.tensor, header_);
  shape.insert(shape.begin(), 0);
  std::vector<std::size_t> chunk = shape;
  chunk[0] = rows_per_chunk(element_count(shape, 1) * hdf5::element_size(options_.tensor_type));
  dataset = layer.create_dataset(dataset_name(place), hdf5::tensor_type(options_.tensor_type).get(), shape, chunk,
                                 options_.compress);
  return dataset;
}

std::uint64_t OpenShard::write_chunk(int sequence, const DatasetPlace& place, std::size_t first, std::size_t end,
                                     const EncodedChunk& chunk) {
  // Under the lock a chunk only gets its place; its bytes are written by several threads at once.
  hdf5::DeferredWrite bytes(chunk.bytes);
  const Node* target = nullptr;
  {
    const Guard guard;
    target = &dataset(open_sequence(sequence), place);
    traces::write_chunk(*target, first, end, chunk);
  }
  if (!bytes.perform()) throw chunk_not_written(*target);
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
      cut(dataset(output, {Pass::sequence, place, tensor}), rows);
    };
    const std::vector<std::int32_t>& rows = end.query_rows[place];
    end_at(LayerTensor::key, length);
    end_at(LayerTensor::value, length);
    end_at(LayerTensor::query, rows.size());
    const Rows& own = output.passes.front();
    if (own.datasets[place * layer_tensor_count + static_cast<std::size_t>(LayerTensor::hidden)].id() >= 0) {
      end_at(LayerTensor::hidden, length);
    }
    // Ascending rows within [0, length) that are as many as the tokens are all of them.
    if (rows.size() != length) own.layers[place].write_integers("q_rows", {rows.size()}, rows);
  }
  finish_passes(output, end);
  open_.erase(sequence);
  ++finished_;
  tokens_ += end.info.length;
}

/// Completes the passes that are whole and takes the others out.
void OpenShard::finish_passes(Sequence& sequence, const SequenceEnd& end) const {
  for (const Pass pass : passes_beside) {
    Rows& rows = sequence.passes[static_cast<std::size_t>(pass)];
    const std::size_t wanted = end.pass_rows[static_cast<std::size_t>(pass)];
    for (std::size_t place = 0; place < header_.layers.size(); ++place) {
      for (std::size_t tensor = 0; tensor < layer_tensor_count; ++tensor) {
        Node& node = rows.datasets[place * layer_tensor_count + tensor];
        if (node.id() < 0) continue;
        if (wanted > 0) {
          cut(node, wanted);
          continue;
        }
        node.close();
        rows.layers[place].remove(dataset_name({pass, place, static_cast<LayerTensor>(tensor)}));
      }
    }
  }
  if (end.second_pass) {
    write_second_pass_rows(pass_group(sequence.group, Pass::second), *end.second_pass);
  } else if (sequence.group.has("second_pass")) {
    sequence.passes[static_cast<std::size_t>(Pass::second)] = {};
    sequence.group.remove("second_pass");
  }
  if (end.packets[0] || end.packets[1]) {
    for (const PacketSet set : packet_sets) {
      const bool wrapped = set == PacketSet::wrapped;
      const auto& packets = end.packets[static_cast<std::size_t>(set)];
      if (packets) {
        write_packet_layout(pass_group(sequence.group, wrapped ? Pass::wrapped : Pass::bare), *packets);
      } else if (const Node both = sequence.group.group("packets"); both.has(to_string(set))) {
        both.remove(to_string(set));
      }
    }
  } else if (sequence.group.has("packets")) {
    sequence.group.remove("packets");
  }
}

void OpenShard::discard_sequence(int sequence) {
  const Guard guard;
  if (open_.erase(sequence) == 0) return;
  sequences_.remove(fmt::format("{:06}", sequence));
}

bool OpenShard::seal(const Losses& losses, bool listed) {
  {
    const Guard guard;
    open_.clear();
    sequences_.close();
    model_.close();
    if (finished_ == 0) return false;
    file_.root().set_attribute("dropped_rows", losses.rows);
    if (losses.rows > 0) file_.root().set_attribute("capture_dropped_requests", losses.requests);
    if (losses.passes > 0) file_.root().set_attribute("capture_dropped_passes", losses.passes);
    if (losses.rows > 0 || losses.passes > 0) file_.root().set_attribute("capture_last_loss", losses.last);
  }
  file_.seal();
  if (!listed) return true;
  // Not through a Reader: it starts a child process, and an engine's process is no place for that.
  const std::filesystem::path& path = file_.path();
  append_to_manifest(path.parent_path(), {.name = path.filename().string(),
                                          .sequences = finished_,
                                          .tokens = tokens_,
                                          .bytes = readable_file_size(path),
                                          .checksum = file_.checksum()});
  return true;
}

}  // namespace evictsim::traces::capture
