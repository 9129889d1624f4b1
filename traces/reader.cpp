#include "traces/reader.h"

#include <fmt/format.h>

#include <numeric>

#include "traces/checksum.h"
#include "traces/manifest.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"

namespace evictsim::traces {

using hdf5::Guard;
using hdf5::Node;

struct Reader::Impl {
  TraceFile trace;

  [[nodiscard]] const SequenceEntry& entry(std::size_t sequence) const {
    if (sequence >= trace.entries.size()) {
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("sequence {} of a trace with {}", sequence, trace.entries.size()),
                  {.file = trace.path.string()});
    }
    return trace.entries[sequence];
  }
  [[nodiscard]] const LayerEntry& layer(std::size_t sequence, int index) const {
    return entry(sequence).layers[trace.layer_index(index)];
  }
  [[nodiscard]] Node sequence_group(std::size_t sequence) const {
    static_cast<void>(entry(sequence));
    return trace.root.group("sequences").group(trace.sequences[sequence].name);
  }
  [[nodiscard]] Node layer_dataset(std::size_t sequence, int layer_number, const char* name) const {
    static_cast<void>(layer(sequence, layer_number));
    const Guard guard;
    return sequence_group(sequence).group(layer_name(layer_number)).dataset(name);
  }
  /// [heads, Ts, d], head by head.
  [[nodiscard]] Tensor read_second_pass_rows(std::size_t sequence, int layer, const char* name) const;
};

Reader::Reader(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  load(impl_->trace, path, [](const Error& error) { throw error; });
}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

const std::filesystem::path& Reader::path() const { return impl_->trace.path; }
const Header& Reader::header() const { return impl_->trace.header; }
const std::vector<SequenceInfo>& Reader::sequences() const { return impl_->trace.sequences; }

std::vector<std::int32_t> Reader::query_rows(std::size_t sequence, int layer) const {
  const LayerEntry& entry = impl_->layer(sequence, layer);
  if (entry.query_rows) return *entry.query_rows;
  std::vector<std::int32_t> rows(static_cast<std::size_t>(impl_->trace.sequences[sequence].length));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

LayerTensors Reader::read_layer(std::size_t sequence, int layer) const {
  LayerTensors tensors;
  read_layer(sequence, layer, tensors);
  return tensors;
}

void Reader::read_layer(std::size_t sequence, int layer, LayerTensors& tensors) const {
  tensors.q_rows = query_rows(sequence, layer);
  tensors.length = impl_->trace.sequences[sequence].length;
  read_head_major(impl_->layer_dataset(sequence, layer, "k"), tensors.k);
  read_head_major(impl_->layer_dataset(sequence, layer, "v"), tensors.v);
  read_head_major(impl_->layer_dataset(sequence, layer, "q"), tensors.q);
}

std::optional<Tensor> Reader::read_hidden(std::size_t sequence, int layer) const {
  if (!has_hidden(sequence, layer)) return std::nullopt;
  return read_tensor(impl_->layer_dataset(sequence, layer, "x"));
}

bool Reader::has_hidden(std::size_t sequence, int layer) const { return impl_->layer(sequence, layer).has_hidden; }

bool Reader::has_channel(std::size_t sequence, Channel channel) const {
  return impl_->entry(sequence).channels[static_cast<std::size_t>(channel)];
}

std::optional<Tensor> Reader::read_channel(std::size_t sequence, Channel channel) const {
  if (!has_channel(sequence, channel)) return std::nullopt;
  Node dataset;
  {
    const Guard guard;
    dataset = impl_->sequence_group(sequence).dataset(to_string(channel));
    if (channel == Channel::token_ids) {
      const std::vector<std::int64_t> tokens = hdf5::read_integers(dataset);
      return Tensor{{tokens.size()}, {tokens.begin(), tokens.end()}};
    }
  }
  return read_tensor(dataset);
}

bool Reader::has_weight(int layer, LayerWeight weight) const {
  static_cast<void>(impl_->trace.layer_index(layer));
  const Guard guard;
  const Node& weights = impl_->trace.weights;
  return weights.has(layer_name(layer)) && weights.group(layer_name(layer)).has(to_string(weight));
}

std::optional<Tensor> Reader::read_weight(int layer, LayerWeight weight) const {
  if (!has_weight(layer, weight)) return std::nullopt;
  Node dataset;
  {
    const Guard guard;
    dataset = impl_->trace.weights.group(layer_name(layer)).dataset(to_string(weight));
  }
  return read_tensor(dataset);
}

bool Reader::has_model_tensor(ModelTensor tensor) const {
  const Guard guard;
  return impl_->trace.weights.has(to_string(tensor));
}

std::optional<Tensor> Reader::read_model_tensor(ModelTensor tensor) const {
  if (!has_model_tensor(tensor)) return std::nullopt;
  Node dataset;
  {
    const Guard guard;
    dataset = impl_->trace.weights.dataset(to_string(tensor));
  }
  return read_tensor(dataset);
}

std::optional<SecondPass> Reader::read_second_pass(std::size_t sequence) const {
  return impl_->entry(sequence).second_pass;
}

Tensor Reader::Impl::read_second_pass_rows(std::size_t sequence, int layer, const char* name) const {
  Node dataset;
  Tensor tensor;
  {
    const Guard guard;
    dataset = sequence_group(sequence).group("second_pass").group(layer_name(layer)).dataset(name);
    tensor.shape = dataset.shape();
  }
  std::swap(tensor.shape[0], tensor.shape[1]);
  read_head_major(dataset, tensor.data);
  return tensor;
}

std::optional<Tensor> Reader::read_second_pass_queries(std::size_t sequence, int layer) const {
  if (!impl_->layer(sequence, layer).has_second_pass) return std::nullopt;
  return impl_->read_second_pass_rows(sequence, layer, "q");
}

std::optional<Tensor> Reader::read_second_pass_keys(std::size_t sequence, int layer) const {
  if (!impl_->layer(sequence, layer).has_second_pass_keys) return std::nullopt;
  return impl_->read_second_pass_rows(sequence, layer, "k");
}

std::optional<Packets> Reader::read_packets(std::size_t sequence, PacketSet set) const {
  return impl_->entry(sequence).packets[static_cast<std::size_t>(set)].layout;
}

PacketContents Reader::packet_contents(std::size_t sequence, int layer, PacketSet set) const {
  const std::size_t index = impl_->trace.layer_index(layer);
  const PacketEntry& packets = impl_->entry(sequence).packets[static_cast<std::size_t>(set)];
  return packets.layout ? packets.layers[index] : PacketContents{};
}

PacketTensors Reader::read_packet_layer(std::size_t sequence, int layer, PacketSet set) const {
  const PacketContents contents = packet_contents(sequence, layer, set);
  PacketTensors tensors;
  const auto read = [&](bool present, const char* name, std::vector<float>& values) {
    if (!present) return;
    Node dataset;
    {
      const Guard guard;
      const Node packets = impl_->sequence_group(sequence).group("packets").group(to_string(set));
      dataset = packets.group(layer_name(layer)).dataset(name);
    }
    read_head_major(dataset, values);
  };
  read(contents.rows, "k", tensors.k);
  read(contents.rows, "v", tensors.v);
  read(contents.queries, "q", tensors.q);
  read(contents.after, "after_k", tensors.after_k);
  read(contents.after, "after_v", tensors.after_v);
  read(contents.after, "after_q", tensors.after_q);
  return tensors;
}

TensorType Reader::stored_type(std::size_t sequence, int layer) const { return impl_->layer(sequence, layer).type; }

std::string Reader::checksum() const { return file_checksum(impl_->trace.path); }

std::vector<Reader> open_traces(const std::vector<std::filesystem::path>& paths) {
  std::vector<Reader> readers;
  for (const std::filesystem::path& path : paths) {
    for (const std::filesystem::path& file : trace_files(path)) readers.emplace_back(file);
  }
  return readers;
}

}  // namespace evictsim::traces
