#include "traces/slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <set>

#include "traces/manifest.h"
#include "traces/packet_storage.h"
#include "traces/sealed_file.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"
#include "traces/trace_output.h"

namespace evictsim::traces {
namespace {

using hdf5::Guard;
using hdf5::Handle;
using hdf5::Node;
using Indices = std::vector<std::size_t>;

Indices range(std::size_t first, std::size_t last) {
  Indices indices(last - first);
  std::iota(indices.begin(), indices.end(), first);
  return indices;
}

bool is_deflated(const Node& dataset) {
  const Handle properties(H5Dget_create_plist(dataset.id()));
  for (int index = 0; index < H5Pget_nfilters(properties.get()); ++index) {
    unsigned flags = 0;
    std::size_t values = 0;
    if (H5Pget_filter2(properties.get(), static_cast<unsigned>(index), &flags, &values, nullptr, 0, nullptr, nullptr) ==
        H5Z_FILTER_DEFLATE) {
      return true;
    }
  }
  return false;
}

/// Copies `rows` of the first axis, and of each row the parts `parts` out of `part_count` equal ones, into a dataset of
/// the same name and type. `shape` is the shape of a row in the copy.
void copy(const Node& source, const Node& target, const std::string& name, const Indices& rows, const Indices& parts,
          std::size_t part_count, std::vector<std::size_t> shape) {
  const Node dataset = source.dataset(name);
  hdf5::StoredRows stored(dataset);
  const std::size_t part_bytes = stored.row_bytes() / part_count;
  const std::size_t row_bytes = part_bytes * parts.size();
  const Handle type(H5Dget_type(dataset.id()));
  shape.insert(shape.begin(), rows.size());
  std::vector<std::size_t> chunk = shape;
  chunk[0] = rows_per_chunk(std::max<std::size_t>(1, row_bytes));
  // Chunks serve compression alone here, and the last one would be padded.
  const bool small = rows.size() * row_bytes <= (std::size_t{64} << 10);
  const bool deflated = is_deflated(dataset);
  const Node written =
      target.create_dataset(name, type.get(), shape, small || !deflated ? std::vector<std::size_t>{} : chunk, deflated);
  // Whole chunks of the source, so that none is decoded twice.
  const std::size_t block = std::max(stored.unit_rows(), chunk[0] / stored.unit_rows() * stored.unit_rows());
  std::vector<std::byte> bytes(std::min(block, stored.rows()) * stored.row_bytes());
  std::vector<std::byte> kept;
  for (std::size_t done = 0; done < rows.size();) {
    const std::size_t first = rows[done] / block * block;
    stored.read(first, std::min(block, stored.rows() - first), bytes.data());
    kept.clear();
    const std::size_t begin = done;
    for (; done < rows.size() && rows[done] < first + block; ++done) {
      const std::byte* row = bytes.data() + (rows[done] - first) * stored.row_bytes();
      for (const std::size_t part : parts)
        kept.insert(kept.end(), row + part * part_bytes, row + (part + 1) * part_bytes);
    }
    written.write_rows(shape, begin, done - begin, kept.data());
  }
}

class Slicer {
 public:
  Slicer(const TraceFile& input, const SliceOptions& options)
      : input_(input), options_(options), header_(input.header) {
    choose_layers();
    choose_heads();
    choose_sequences();
    check_rows();
  }

  void write(const SealedFile& output) const {
    const Node model = output.root().create_group("model");
    write_header(output.root(), model, header_);
    copy_model(model);
    const Node sequences = output.root().create_group("sequences");
    for (const std::size_t sequence : sequences_) copy_sequence(sequence, sequences);
  }

 private:
  [[nodiscard]] Error invalid(const std::string& parameter, const std::string& message,
                              const std::string& value = {}) const {
    return {ErrorCode::invalid_argument,
            message,
            {.file = input_.path.string(), .dataset = {}, .parameter = parameter, .value = value}};
  }

  void require_ascending(const std::vector<int>& values, const char* parameter) const {
    if (std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) != values.end()) {
      throw invalid(parameter, "must be strictly ascending");
    }
  }

  void choose_layers() {
    require_ascending(options_.layers, "layers");
    layers_ = range(0, input_.header.layers.size());
    if (!options_.layers.empty()) {
      layers_.clear();
      for (const int layer : options_.layers) layers_.push_back(input_.layer_index(layer));
    }
    const auto pick = [this](auto& values) {
      if (values.empty()) return;
      auto kept = values;
      kept.clear();
      for (const std::size_t index : layers_) kept.push_back(values[index]);
      values = kept;
    };
    pick(header_.layers);
    pick(header_.sliding_window);
    pick(header_.sensitivity);
  }

  void choose_heads() {
    require_ascending(options_.kv_heads, "heads");
    const int heads = input_.header.num_kv_heads;
    kv_heads_ = range(0, static_cast<std::size_t>(heads));
    if (!options_.kv_heads.empty()) {
      kv_heads_.clear();
      for (const int head : options_.kv_heads) {
        if (head < 0 || head >= heads) {
          throw invalid("heads", fmt::format("must lie between 0 and {}", heads - 1), std::to_string(head));
        }
        kv_heads_.push_back(static_cast<std::size_t>(head));
      }
    }
    const auto group = static_cast<std::size_t>(input_.header.group_size());
    for (const std::size_t head : kv_heads_) {
      for (std::size_t member = 0; member < group; ++member) query_heads_.push_back(head * group + member);
    }
    header_.num_kv_heads = static_cast<int>(kv_heads_.size());
    header_.num_query_heads = static_cast<int>(query_heads_.size());
  }

  void choose_sequences() {
    sequences_ = range(0, input_.sequences.size());
    if (options_.sequences.empty()) return;
    std::set<std::size_t> chosen;
    for (const std::string& wanted : options_.sequences) {
      const std::string name = wanted.size() < 6 ? std::string(6 - wanted.size(), '0') + wanted : wanted;
      const auto place = std::find_if(input_.sequences.begin(), input_.sequences.end(),
                                      [&name](const SequenceInfo& info) { return info.name == name; });
      if (place == input_.sequences.end()) throw invalid("sequences", "no such sequence", name);
      chosen.insert(static_cast<std::size_t>(place - input_.sequences.begin()));
    }
    sequences_.assign(chosen.begin(), chosen.end());
  }

  void check_rows() const {
    std::int32_t shortest = std::numeric_limits<std::int32_t>::max();
    std::int32_t longest = 0;
    for (const std::size_t sequence : sequences_) {
      shortest = std::min(shortest, input_.sequences[sequence].length);
      longest = std::max(longest, input_.sequences[sequence].length);
    }
    const std::int32_t first = options_.first_row;
    const std::int32_t last = options_.last_row.value_or(longest);
    if (first >= 0 && first < shortest && first < last && last <= longest) return;
    throw invalid(
        "rows",
        shortest == longest
            ? fmt::format("must be a range FIRST:LAST inside 0:{}, FIRST < LAST", longest)
            : fmt::format("must be a range FIRST:LAST inside 0:{}, FIRST < LAST and below {}, the rows of the "
                          "shortest sequence",
                          longest, shortest),
        fmt::format("{}:{}", first, options_.last_row ? std::to_string(last) : ""));
  }

  void copy_model(const Node& target) const {
    const Node& weights = input_.weights;
    const auto width = static_cast<std::size_t>(header_.hidden_size);
    const auto head_width = static_cast<std::size_t>(header_.head_dim);
    if (weights.has("unembedding")) {
      copy(weights, target, "unembedding", range(0, static_cast<std::size_t>(header_.vocab_size)), {0}, 1, {width});
    }
    if (weights.has("final_norm")) copy(weights, target, "final_norm", range(0, width), {0}, 1, {});
    for (const int layer : header_.layers) {
      if (!weights.has(layer_name(layer))) continue;
      const Node source = weights.group(layer_name(layer));
      const Node group = target.create_group(layer_name(layer));
      if (source.has("w_o")) {
        copy(source, group, "w_o", range(0, width), query_heads_,
             static_cast<std::size_t>(input_.header.num_query_heads), {query_heads_.size() * head_width});
      }
      for (const char* norm : {"input_norm", "output_norm"}) {
        if (source.has(norm)) copy(source, group, norm, range(0, width), {0}, 1, {});
      }
    }
  }

  static SequenceInfo sliced_info(const SequenceInfo& info, std::int32_t first, std::int32_t last) {
    SequenceInfo kept = info;
    kept.length = last - first;
    kept.prompt_length = std::clamp(info.prompt_length - first, 1, kept.length);
    kept.positions.assign(info.positions.begin() + first, info.positions.begin() + last);
    if (info.token_texts) kept.token_texts.emplace(info.token_texts->begin() + first, info.token_texts->begin() + last);
    for (auto& [kind, spans] : kept.spans) {
      std::vector<Span> inside;
      for (const Span& span : spans) {
        const Span clipped{std::max(span.first, first) - first, std::min(span.last, last) - first};
        if (clipped.first < clipped.last) inside.push_back(clipped);
      }
      spans = inside;
    }
    return kept;
  }

  void copy_sequence(std::size_t index, const Node& sequences) const {
    const SequenceInfo& info = input_.sequences[index];
    const std::int32_t first = options_.first_row;
    const std::int32_t last = std::min(options_.last_row.value_or(info.length), info.length);
    const Node source = input_.root.group("sequences").group(info.name);
    const Node target = sequences.create_group(info.name);
    write_sequence_info(target, sliced_info(info, first, last));
    copy_channels(index, source, target, first, last);
    for (const std::size_t layer : layers_) copy_layer(index, layer, source, target, first, last);
    if (input_.entries[index].second_pass) copy_second_pass(index, source, target, first, last);
    copy_packets(index, source, target, first, last);
  }

  void copy_channels(std::size_t index, const Node& source, const Node& target, std::int32_t first,
                     std::int32_t last) const {
    const Indices rows = range(static_cast<std::size_t>(first), static_cast<std::size_t>(last));
    const auto length = static_cast<std::size_t>(input_.sequences[index].length);
    for (const Channel channel : all_channels) {
      if (!input_.entries[index].channels[static_cast<std::size_t>(channel)]) continue;
      const std::vector<std::size_t> shape = channel_shape(channel, input_.header, length);
      if (shape.size() == 2 && shape[1] == length && channel != Channel::entropy_top) {
        copy(source, target, to_string(channel), layers_, rows, length, {rows.size()});
      } else {
        copy(source, target, to_string(channel), rows, {0}, 1, {shape.begin() + 1, shape.end()});
      }
    }
    // What the first row said about the row before it has lost its meaning.
    if (first == 0) return;
    if (target.has("logprob")) fill_first_column(target.dataset("logprob"), std::numeric_limits<float>::quiet_NaN());
    if (target.has("step_norm")) fill_first_column(target.dataset("step_norm"), 0.0F);
  }

  static void fill_first_column(const Node& dataset, float value) {
    const std::vector<std::size_t> shape = dataset.shape();
    std::vector<hsize_t> start(shape.size(), 0);
    const Handle selected(H5Dget_space(dataset.id()));
    const Handle single(H5Screate(H5S_SCALAR));
    // Zero and NaN are the same in every float type, so HDF5's conversion is harmless here.
    std::vector<hsize_t> one(shape.size(), 1);
    for (std::size_t row = 0; row < (shape.size() == 2 ? shape[0] : 1); ++row) {
      if (shape.size() == 2) start[0] = row;
      H5Sselect_hyperslab(selected.get(), H5S_SELECT_SET, start.data(), nullptr, one.data(), nullptr);
      if (H5Dwrite(dataset.id(), H5T_NATIVE_FLOAT, single.get(), selected.get(), H5P_DEFAULT, &value) < 0) {
        throw dataset.error(ErrorCode::io_failure, "cannot be written");
      }
    }
  }

  void copy_layer(std::size_t index, std::size_t layer, const Node& sequence, const Node& sequence_target,
                  std::int32_t first, std::int32_t last) const {
    const std::string name = layer_name(input_.header.layers[layer]);
    const LayerEntry& entry = input_.entries[index].layers[layer];
    const Node source = sequence.group(name);
    const Node target = sequence_target.create_group(name);
    const Indices rows = range(static_cast<std::size_t>(first), static_cast<std::size_t>(last));
    const auto width = static_cast<std::size_t>(header_.head_dim);
    const auto all_kv = static_cast<std::size_t>(input_.header.num_kv_heads);
    const auto all_queries = static_cast<std::size_t>(input_.header.num_query_heads);
    copy(source, target, "k", rows, kv_heads_, all_kv, {kv_heads_.size(), width});
    copy(source, target, "v", rows, kv_heads_, all_kv, {kv_heads_.size(), width});
    if (entry.has_hidden) copy(source, target, "x", rows, {0}, 1, {static_cast<std::size_t>(header_.hidden_size)});
    Indices places = rows;
    if (entry.query_rows) {
      places.clear();
      std::vector<std::int32_t> kept;
      for (std::size_t place = 0; place < entry.query_rows->size(); ++place) {
        const std::int32_t row = (*entry.query_rows)[place];
        if (row < first || row >= last) continue;
        places.push_back(place);
        kept.push_back(row - first);
      }
      target.write_integers("q_rows", {kept.size()}, kept);
    }
    copy(source, target, "q", places, query_heads_, all_queries, {query_heads_.size(), width});
  }

  void copy_second_pass(std::size_t index, const Node& sequence, const Node& sequence_target, std::int32_t first,
                        std::int32_t last) const {
    const SecondPass& all = *input_.entries[index].second_pass;
    SecondPass kept;
    Indices places;
    for (std::size_t place = 0; place < all.positions.size(); ++place) {
      const Span clipped{std::max(all.chunk[place].first, first) - first,
                         std::min(all.chunk[place].last, last) - first};
      if (clipped.first >= clipped.last) continue;
      places.push_back(place);
      kept.positions.push_back(all.positions[place]);
      kept.chunk.push_back(clipped);
    }
    const Node source = sequence.group("second_pass");
    const Node target = sequence_target.create_group("second_pass");
    write_second_pass_rows(target, kept);
    for (const std::size_t layer : layers_) {
      if (!input_.entries[index].layers[layer].has_second_pass) continue;
      const std::string name = layer_name(input_.header.layers[layer]);
      copy(source.group(name), target.create_group(name), "q", places, query_heads_,
           static_cast<std::size_t>(input_.header.num_query_heads),
           {query_heads_.size(), static_cast<std::size_t>(header_.head_dim)});
      if (!input_.entries[index].layers[layer].has_second_pass_keys) continue;
      copy(source.group(name), target.group(name), "k", places, kv_heads_,
           static_cast<std::size_t>(input_.header.num_kv_heads),
           {kv_heads_.size(), static_cast<std::size_t>(header_.head_dim)});
    }
  }

  /// Sets of packets whose documents all lie in the rows kept; the others go.
  void copy_packets(std::size_t index, const Node& sequence, const Node& sequence_target, std::int32_t first,
                    std::int32_t last) const {
    std::optional<Node> packets;
    for (const PacketSet set : packet_sets) {
      const PacketEntry& entry = input_.entries[index].packets[static_cast<std::size_t>(set)];
      if (!entry.layout || entry.layout->front().document.first < first || entry.layout->back().document.last > last) {
        continue;
      }
      Packets kept = *entry.layout;
      for (Packet& packet : kept) packet.document = {packet.document.first - first, packet.document.last - first};
      if (!packets) packets = sequence_target.create_group("packets");
      const Node source = sequence.group("packets").group(to_string(set));
      const Node target = packets->create_group(to_string(set));
      write_packet_layout(target, kept);
      for (const std::size_t layer : layers_) {
        if (entry.layers[layer].rows) copy_packet_layer(entry, layer, source, target, last);
      }
    }
  }

  void copy_packet_layer(const PacketEntry& entry, std::size_t layer, const Node& set, const Node& set_target,
                         std::int32_t last) const {
    const std::string name = layer_name(input_.header.layers[layer]);
    const Node source = set.group(name);
    const Node target = set_target.create_group(name);
    const auto width = static_cast<std::size_t>(header_.head_dim);
    const auto copy_heads = [&](const char* dataset, const Indices& rows, const Indices& heads, int all) {
      copy(source, target, dataset, rows, heads, static_cast<std::size_t>(all), {heads.size(), width});
    };
    const PacketContents& contents = entry.layers[layer];
    const Indices rows = range(0, static_cast<std::size_t>(total_rows(*entry.layout)));
    copy_heads("k", rows, kv_heads_, input_.header.num_kv_heads);
    copy_heads("v", rows, kv_heads_, input_.header.num_kv_heads);
    if (contents.queries) copy_heads("q", rows, query_heads_, input_.header.num_query_heads);
    if (!contents.after) return;
    const Indices after = range(0, static_cast<std::size_t>(last - entry.layout->back().document.last));
    copy_heads("after_k", after, kv_heads_, input_.header.num_kv_heads);
    copy_heads("after_v", after, kv_heads_, input_.header.num_kv_heads);
    copy_heads("after_q", after, query_heads_, input_.header.num_query_heads);
  }

  const TraceFile& input_;
  const SliceOptions& options_;
  Header header_;
  Indices layers_, kv_heads_, query_heads_, sequences_;
};

/// The one trace file that `path` names.
std::filesystem::path single_trace(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return path;
  const std::vector<Shard> shards = read_shards(path).shards;
  if (shards.size() > 1) {
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("a slice is cut from one trace, and this directory holds {}; name one of them, for example {}",
                    shards.size(), (path / shards.front().name).string()),
        {.file = path.string()});
  }
  return trace_files(path).front();
}

/// Everything that `options` keep of an open trace, as a file of its own.
void write(const TraceFile& trace, const std::filesystem::path& output, const SliceOptions& options) {
  const Slicer slicer(trace, options);
  SealedFile file(output);
  {
    const Guard guard;
    slicer.write(file);
  }
  file.seal();
}

}  // namespace

void slice(const std::filesystem::path& input, const std::filesystem::path& output, const SliceOptions& options) {
  TraceFile trace;
  const std::filesystem::path source = single_trace(input);
  load(trace, source, [](const Error& error) { throw error; });
  std::error_code ignored;  // No output yet: then it is another file.
  if (std::filesystem::equivalent(source, output, ignored)) {
    throw Error(ErrorCode::invalid_argument, "is the trace to copy from; name another file for the slice",
                {.file = output.string()});
  }
  write(trace, output, options);
}

void store_sensitivity(const std::filesystem::path& input, const std::filesystem::path& output,
                       const std::vector<double>& values, const std::map<std::string, std::string>& attributes) {
  std::error_code ignored;
  if (std::filesystem::is_directory(input, ignored)) {
    throw Error(ErrorCode::invalid_argument,
                "sensitivity is stored in a trace file, and this is a directory; name a file",
                {.file = input.string()});
  }
  TraceFile trace;
  load(trace, input, [](const Error& error) { throw error; });
  const bool right =
      values.size() == trace.header.layers.size() &&
      std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value) && value >= 0; });
  if (!right) {
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("must be {} finite numbers from 0 on, one per captured layer", trace.header.layers.size()),
        {.file = input.string(), .dataset = "/model/sensitivity", .value = fmt::format("{}", fmt::join(values, ", "))});
  }
  trace.header.sensitivity = values;
  trace.header.sensitivity_attributes = attributes;
  write(trace, output, {});
}

}  // namespace evictsim::traces
