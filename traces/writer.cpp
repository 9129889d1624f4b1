#include "traces/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "traces/packet_output.h"
#include "traces/row_stream.h"
#include "traces/sealed_file.h"
#include "traces/trace_file.h"
#include "traces/trace_output.h"

namespace evictsim::traces {
using hdf5::Guard;
using hdf5::Node;

struct Writer::Impl {
  struct Layer {
    Node group;
    std::unique_ptr<RowStream> k, v, q, x, second_pass_q, second_pass_k;
    std::vector<std::int32_t> query_rows;
  };

  Impl(const std::filesystem::path& path, const Header& wanted, const WriterOptions& chosen)
      : options(chosen), header(wanted), file(path) {
    const Guard guard;
    model = file.root().create_group("model");
    sequences = file.root().create_group("sequences");
    write_header(file.root(), model, header);
  }

  WriterOptions options;
  Header header;
  SealedFile file;
  Node model, sequences;
  std::map<int, Node> layer_groups;

  // The open sequence.
  bool open = false;
  SequenceInfo info;
  Node sequence;
  std::map<int, Layer> layers;
  std::map<Channel, std::vector<float>> channels;
  std::optional<SecondPass> second_pass;
  Node second_pass_group;
  PacketOutput packets;
  std::set<std::string> used_names;

  void close() {
    layers.clear();
    packets.close();
    second_pass_group.close();
    sequence.close();
    layer_groups.clear();
    sequences.close();
    model.close();
  }

  [[nodiscard]] Error misuse(const std::string& message) const {
    return {ErrorCode::invalid_argument, message, {.file = file.path().string()}};
  }

  void require_open(bool wanted) const {
    if (file.sealed()) throw misuse("the trace is sealed: nothing can be added");
    if (wanted && !open) throw misuse("begin_sequence must come first");
    if (!wanted && open) throw misuse("end_sequence must come first");
  }

  void require_layer(int layer) const {
    if (!std::binary_search(header.layers.begin(), header.layers.end(), layer)) {
      throw misuse(fmt::format("layer {} is not in the header's layers", layer));
    }
  }

  Layer& layer(int index) {
    require_open(true);
    require_layer(index);
    return layers[index];
  }

  [[nodiscard]] std::vector<std::size_t> kv_row() const {
    return {static_cast<std::size_t>(header.num_kv_heads), static_cast<std::size_t>(header.head_dim)};
  }
  [[nodiscard]] std::vector<std::size_t> query_row() const {
    return {static_cast<std::size_t>(header.num_query_heads), static_cast<std::size_t>(header.head_dim)};
  }

  void write_whole(const Node& group, const char* name, const std::vector<std::size_t>& shape,
                   std::span<const float> values) const {
    write_tensor(group, name, options.tensor_type, shape, values);
  }

  void require_valid_info() const {
    const auto check = [this](bool holds, const char* name, const char* rule) {
      if (!holds) throw sequence.error(ErrorCode::invalid_value, fmt::format("{} {}", name, rule));
    };
    check(info.length >= 1, "length", "must be at least 1");
    check(info.prompt_length >= 1 && info.prompt_length <= info.length, "prompt_length",
          "must be between 1 and length");
    check(info.positions.size() == static_cast<std::size_t>(info.length), "positions", "must have one value per token");
    check(info.positions.front() >= 0, "positions", "must not be negative");
    check(std::adjacent_find(info.positions.begin(), info.positions.end(), std::greater_equal<>()) ==
              info.positions.end(),
          "positions", "must be strictly increasing");
    if (info.token_texts) {
      std::size_t bytes = 0;
      for (const std::string& text : *info.token_texts) bytes += text.size();
      check(info.token_texts->size() == static_cast<std::size_t>(info.length), "token_texts",
            "must have one text per token");
      check(bytes <= INT32_MAX, "token_texts", "must be at most 2 GiB together");
    }
    const auto inside = [this](const Span& span) {
      return 0 <= span.first && span.first <= span.last && span.last <= info.length;
    };
    for (const auto& [kind, spans] : info.spans) {
      check(std::find(span_kinds.begin(), span_kinds.end(), kind) != span_kinds.end(), kind.c_str(),
            "is no span kind of the format");
      check(std::all_of(spans.begin(), spans.end(), inside), kind.c_str(), "spans must lie within [0, length]");
    }
    if (!second_pass) return;
    check(second_pass->positions.size() == second_pass->chunk.size(), "second_pass", "needs one chunk per position");
    check(std::all_of(second_pass->chunk.begin(), second_pass->chunk.end(), inside), "second_pass/chunk",
          "must lie within [0, length]");
  }

  void write_channels() const {
    if (!channels.contains(Channel::token_ids)) {
      throw sequence.error(ErrorCode::missing_data, "token_ids must be written");
    }
    for (const auto& [channel, values] : channels) {
      const std::vector<std::size_t> shape = channel_shape(channel, header, static_cast<std::size_t>(info.length));
      if (values.size() != element_count(shape)) {
        throw sequence.error(ErrorCode::wrong_shape,
                             fmt::format("{} must have shape {}, {} values", to_string(channel), channel_axes(channel),
                                         element_count(shape)),
                             fmt::format("{} values", values.size()));
      }
      if (channel != Channel::token_ids) {
        const Node dataset = sequence.create_dataset(to_string(channel), H5T_IEEE_F32LE, shape);
        dataset.write_rows(shape, 0, shape[0], values.data());
        continue;
      }
      std::vector<std::int32_t> tokens(values.size());
      for (std::size_t index = 0; index < values.size(); ++index) {
        if (!(values[index] >= 0 && values[index] < static_cast<float>(header.vocab_size))) {
          throw sequence.error(ErrorCode::invalid_value,
                               "token_ids must lie inside the vocabulary, 0 to vocab_size - 1",
                               fmt::format("{}", values[index]));
        }
        tokens[index] = static_cast<std::int32_t>(values[index]);
      }
      sequence.write_integers("token_ids", shape, tokens);
    }
  }

  void finish_layer(int index) {
    const auto length = static_cast<std::size_t>(info.length);
    Layer& entry = layers[index];
    if (entry.group.id() < 0) throw sequence.error(ErrorCode::missing_data, layer_name(index) + " must be written");
    finish(entry.k, entry.group, "k", length);
    finish(entry.v, entry.group, "v", length);
    if (entry.x) finish(entry.x, entry.group, "x", length);
    if (entry.second_pass_q) finish(entry.second_pass_q, entry.group, "second_pass", second_pass->positions.size());
    if (entry.second_pass_k) finish(entry.second_pass_k, entry.group, "second_pass", second_pass->positions.size());
    if (!entry.q) entry.q = std::make_unique<RowStream>(entry.group, "q", query_row(), options);
    finish(entry.q, entry.group, "q", entry.query_rows.size());
    if (!entry.query_rows.empty() && entry.query_rows.back() >= info.length) {
      throw entry.group.error(ErrorCode::invalid_value, "q_rows must lie between 0 and length - 1",
                              std::to_string(entry.query_rows.back()));
    }
    // Ascending rows within [0, length) that are as many as the tokens are all of them.
    if (entry.query_rows.size() != length) {
      entry.group.write_integers("q_rows", {entry.query_rows.size()}, entry.query_rows);
    }
  }

  void end() {
    require_open(true);
    require_valid_info();
    write_sequence_info(sequence, info);
    if (second_pass) write_second_pass_rows(second_pass_group, *second_pass);
    write_channels();
    for (const int index : header.layers) finish_layer(index);
    packets.finish(info, header);
    layers.clear();
    channels.clear();
    second_pass.reset();
    second_pass_group.close();
    sequence.close();
    open = false;
  }
};

Writer::Writer(const std::filesystem::path& path, const Header& header, const WriterOptions& options) {
  require_valid(header, path.string());
  impl_ = std::make_unique<Impl>(path, header, options);
}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

void Writer::write_weight(int layer, LayerWeight weight, std::span<const float> values) {
  const Guard guard;
  if (impl_->file.sealed()) throw impl_->misuse("the trace is sealed: nothing can be added");
  impl_->require_layer(layer);
  Node& group = impl_->layer_groups[layer];
  if (group.id() < 0) group = impl_->model.create_group(layer_name(layer));
  impl_->write_whole(group, to_string(weight), weight_shape(weight, impl_->header), values);
}

void Writer::write_model_tensor(ModelTensor tensor, std::span<const float> values) {
  const Guard guard;
  if (impl_->file.sealed()) throw impl_->misuse("the trace is sealed: nothing can be added");
  const auto width = static_cast<std::size_t>(impl_->header.hidden_size);
  const auto tokens = static_cast<std::size_t>(impl_->header.vocab_size);
  const bool matrix = tensor == ModelTensor::unembedding;
  impl_->write_whole(impl_->model, to_string(tensor),
                     matrix ? std::vector<std::size_t>{tokens, width} : std::vector<std::size_t>{width}, values);
}

void Writer::begin_sequence(const SequenceInfo& info) {
  const Guard guard;
  impl_->require_open(false);
  std::string name = info.name.empty() ? fmt::format("{:06}", impl_->used_names.size()) : info.name;
  if (name.size() < 6 || name.find_first_not_of("0123456789") != std::string::npos) {
    throw impl_->misuse("a sequence must be named by six digits: " + name);
  }
  if (!impl_->used_names.insert(name).second) throw impl_->misuse("two sequences of one name: " + name);
  impl_->info = info;
  impl_->info.name = name;
  impl_->sequence = impl_->sequences.create_group(name);
  impl_->open = true;
}

void Writer::append_kv(int layer, std::span<const float> k, std::span<const float> v) {
  const Guard guard;
  Impl::Layer& entry = impl_->layer(layer);
  if (entry.group.id() < 0) entry.group = impl_->sequence.create_group(layer_name(layer));
  if (!entry.k) entry.k = std::make_unique<RowStream>(entry.group, "k", impl_->kv_row(), impl_->options);
  if (!entry.v) entry.v = std::make_unique<RowStream>(entry.group, "v", impl_->kv_row(), impl_->options);
  if (k.size() != v.size())
    throw entry.group.error(ErrorCode::wrong_shape, "k and v must get the same number of values");
  entry.k->append(k);
  entry.v->append(v);
}

void Writer::append_q(int layer, std::span<const std::int32_t> token_rows, std::span<const float> q) {
  const Guard guard;
  Impl::Layer& entry = impl_->layer(layer);
  if (entry.group.id() < 0) entry.group = impl_->sequence.create_group(layer_name(layer));
  if (!entry.q) entry.q = std::make_unique<RowStream>(entry.group, "q", impl_->query_row(), impl_->options);
  if (q.size() != token_rows.size() * entry.q->row_elements()) {
    throw entry.q->dataset().error(ErrorCode::wrong_shape,
                                   fmt::format("must get {} values per token row", entry.q->row_elements()),
                                   fmt::format("{} values for {} rows", q.size(), token_rows.size()));
  }
  std::int32_t last = entry.query_rows.empty() ? -1 : entry.query_rows.back();
  for (const std::int32_t row : token_rows) {
    if (row <= last) {
      throw entry.group.error(ErrorCode::invalid_value, "q_rows must be ascending and not negative",
                              fmt::format("{} after {}", row, last));
    }
    last = row;
  }
  entry.q->append(q);
  entry.query_rows.insert(entry.query_rows.end(), token_rows.begin(), token_rows.end());
}

void Writer::append_x(int layer, std::span<const float> x) {
  const Guard guard;
  Impl::Layer& entry = impl_->layer(layer);
  if (entry.group.id() < 0) entry.group = impl_->sequence.create_group(layer_name(layer));
  if (!entry.x) {
    const std::vector<std::size_t> row = {static_cast<std::size_t>(impl_->header.hidden_size)};
    entry.x = std::make_unique<RowStream>(entry.group, "x", row, impl_->options);
  }
  entry.x->append(x);
}

void Writer::write_second_pass(const SecondPass& rows) {
  const Guard guard;
  impl_->require_open(true);
  if (impl_->second_pass) throw impl_->misuse("the second pass of this sequence was written before");
  impl_->second_pass = rows;
  impl_->second_pass_group = impl_->sequence.create_group("second_pass");
}

void Writer::append_second_pass_q(int layer, std::span<const float> q) {
  const Guard guard;
  Impl::Layer& entry = impl_->layer(layer);
  if (!impl_->second_pass) throw impl_->misuse("write_second_pass must come first");
  if (!entry.second_pass_q) {
    const Node group = impl_->second_pass_group.create_group(layer_name(layer));
    entry.second_pass_q = std::make_unique<RowStream>(group, "q", impl_->query_row(), impl_->options);
  }
  entry.second_pass_q->append(q);
}

void Writer::append_second_pass_k(int layer, std::span<const float> k) {
  const Guard guard;
  Impl::Layer& entry = impl_->layer(layer);
  if (!entry.second_pass_q) throw impl_->misuse("append_second_pass_q must come first");
  if (!entry.second_pass_k) {
    const Node group = impl_->second_pass_group.group(layer_name(layer));
    entry.second_pass_k = std::make_unique<RowStream>(group, "k", impl_->kv_row(), impl_->options);
  }
  entry.second_pass_k->append(k);
}

void Writer::write_packets(PacketSet set, const Packets& packets) {
  const Guard guard;
  impl_->require_open(true);
  impl_->packets.begin(impl_->sequence, set, packets);
}

void Writer::append_packet_rows(PacketSet set, int layer, const PacketRows& rows) {
  const Guard guard;
  impl_->require_open(true);
  impl_->require_layer(layer);
  impl_->packets.append(set, layer, rows, {"k", "v", "q"}, impl_->header, impl_->options);
}

void Writer::append_rows_after_packets(PacketSet set, int layer, const PacketRows& rows) {
  const Guard guard;
  impl_->require_open(true);
  impl_->require_layer(layer);
  impl_->packets.append(set, layer, rows, {"after_k", "after_v", "after_q"}, impl_->header, impl_->options);
}

void Writer::write_channel(Channel channel, std::span<const float> values) {
  const Guard guard;
  impl_->require_open(true);
  impl_->channels[channel].assign(values.begin(), values.end());
}

void Writer::end_sequence() {
  const Guard guard;
  impl_->end();
}

void Writer::end_sequence(const SequenceInfo& info) {
  const Guard guard;
  impl_->require_open(true);
  const std::string name = impl_->info.name;
  impl_->info = info;
  impl_->info.name = name;
  impl_->end();
}

void Writer::seal() {
  {
    const Guard guard;
    impl_->require_open(false);
    if (impl_->used_names.empty()) throw impl_->misuse("a trace must hold at least one sequence");
    impl_->close();
  }
  impl_->file.seal();
}

}  // namespace evictsim::traces
