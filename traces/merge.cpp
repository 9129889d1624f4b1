#include "traces/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <span>

#include "traces/merge_parts.h"
#include "traces/writer.h"

namespace evictsim::traces {
namespace {

constexpr std::array channels = {Channel::token_ids,     Channel::entropy,       Channel::entropy_top,
                                 Channel::logprob,       Channel::step_norm,     Channel::cos_final,
                                 Channel::cos_attention, Channel::residual_norm, Channel::final_norm_input};

/// Rows of heads side by side: [rows, all heads, width] from one block [heads, rows, width] per part.
struct HeadBlock {
  const float* data = nullptr;
  std::size_t first = 0, heads = 0;
};

std::vector<float> interleave(const std::vector<HeadBlock>& blocks, std::size_t all, std::size_t rows,
                              std::size_t first, std::size_t count, std::size_t width) {
  std::vector<float> result(count * all * width);
  for (const HeadBlock& block : blocks) {
    for (std::size_t head = 0; head < block.heads; ++head) {
      const float* source = block.data + (head * rows + first) * width;
      for (std::size_t row = 0; row < count; ++row) {
        std::copy_n(source + row * width, width, result.data() + (row * all + block.first + head) * width);
      }
    }
  }
  return result;
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

class Merger {
 public:
  Merger(const std::vector<Part>& parts, const MergeOptions& options) : parts_(parts) { choose_requests(options); }

  MergeResult write(const std::filesystem::path& output) const {
    const Place& any = parts_.front().requests.at(requests_.front());
    Writer writer(output, merged_header(),
                  {.tensor_type = any.reader->stored_type(any.sequence, header().layers.front()), .compress = true});
    for (const int layer : header().layers) write_weights(writer, layer);
    for (const auto tensor : {ModelTensor::unembedding, ModelTensor::final_norm}) {
      if (const auto values = first_of([&](const Reader& reader) { return reader.read_model_tensor(tensor); })) {
        writer.write_model_tensor(tensor, values->data);
      }
    }
    for (const std::string& request : requests_) write_sequence(writer, request);
    writer.seal();
    return {requests_.size(), left_out_};
  }

 private:
  [[nodiscard]] const Header& header() const { return parts_.front().header(); }

  /// The requests of the first part, in its order, that are whole in every part.
  void choose_requests(const MergeOptions& options) {
    std::set<std::string> left_out;
    for (const Part& part : parts_) {
      for (const auto& [request, place] : part.requests) {
        for (const Part& other : parts_) {
          const auto found = other.requests.find(request);
          const bool missing = found == other.requests.end();
          if (!missing && found->second.info().length == place.info().length) continue;
          if (!options.complete_only) {
            throw not_mergeable(
                other.name, "request " + request,
                missing ? fmt::format("is missing; {} has it (--complete-only leaves such requests out)", part.name)
                        : fmt::format("must have {} tokens, as in {} (--complete-only leaves such requests out)",
                                      place.info().length, part.name),
                missing ? "" : std::to_string(found->second.info().length));
          }
          left_out.insert(request);
        }
      }
    }
    for (const Reader& reader : parts_.front().readers) {
      for (const SequenceInfo& info : reader.sequences()) {
        if (!left_out.contains(*info.request_id)) requests_.push_back(*info.request_id);
      }
    }
    left_out_.assign(left_out.begin(), left_out.end());
    if (requests_.empty()) throw not_mergeable(parts_.front().name, {}, "no request is whole in every part");
  }

  [[nodiscard]] Header merged_header() const {
    Header merged = header();
    merged.num_query_heads = parts_.front().all_queries;
    merged.num_kv_heads = parts_.front().all_kv;
    for (const char* name : head_attributes) merged.extra.erase(name);
    merged.extra["capture_merged_parts"] = std::to_string(parts_.size());
    // A step that lost rows on several ranks lost them once; a server is as slow as its slowest rank.
    for (const Part& part : parts_) {
      std::int64_t dropped = 0;
      for (const Reader& reader : part.readers) {
        dropped += reader.header().dropped_rows.value_or(0);
        if (const auto overhead = reader.header().capture_overhead) {
          merged.capture_overhead = std::max(*overhead, merged.capture_overhead.value_or(0));
        }
      }
      merged.dropped_rows = std::max(dropped, merged.dropped_rows.value_or(0));
    }
    return merged;
  }

  /// What `read` gives for the first part that has it.
  template <typename Read>
  std::optional<Tensor> first_of(Read read) const {
    for (const Part& part : parts_) {
      for (const Reader& reader : part.readers) {
        if (auto value = read(reader)) return value;
      }
    }
    return std::nullopt;
  }

  void write_weights(Writer& writer, int layer) const {
    for (const LayerWeight norm : {LayerWeight::input_norm, LayerWeight::output_norm}) {
      const auto values = first_of([&](const Reader& reader) { return reader.read_weight(layer, norm); });
      if (values) writer.write_weight(layer, norm, values->data);
    }
    const auto rows = static_cast<std::size_t>(header().hidden_size);
    const auto width = static_cast<std::size_t>(header().head_dim);
    const std::size_t columns = static_cast<std::size_t>(parts_.front().all_queries) * width;
    std::vector<float> merged(rows * columns);
    std::size_t with = 0;
    for (const Part& part : parts_) {
      const auto values = part.readers.front().read_weight(layer, LayerWeight::w_o);
      if (!values) continue;
      ++with;
      const std::size_t own = static_cast<std::size_t>(part.header().num_query_heads) * width;
      for (std::size_t row = 0; row < rows; ++row) {
        std::copy_n(values->data.data() + row * own, own,
                    merged.data() + row * columns + static_cast<std::size_t>(part.first_query) * width);
      }
    }
    if (with == parts_.size()) return writer.write_weight(layer, LayerWeight::w_o, merged);
    if (with > 0) {
      throw Error(ErrorCode::missing_data, "only some parts have it",
                  {.file = {}, .dataset = "/model/" + layer_name(layer) + "/w_o", .parameter = {}, .value = {}});
    }
  }

  void require_same_sequence(const Place& first, const Place& other) const {
    const SequenceInfo &a = first.info(), &b = other.info();
    const auto differ = [&](const char* what) {
      return not_mergeable(
          other.reader->path().string(), "/sequences/" + b.name,
          fmt::format("request {} has other {} than in {}", *a.request_id, what, first.reader->path().string()));
    };
    if (a.prompt_length != b.prompt_length) throw differ("prompt_length");
    if (a.positions != b.positions) throw differ("positions");
    if (first.reader->read_channel(first.sequence, Channel::token_ids)->data !=
        other.reader->read_channel(other.sequence, Channel::token_ids)->data) {
      throw differ("token_ids");
    }
    const int layer = header().layers.front();
    if (first.reader->stored_type(first.sequence, layer) != other.reader->stored_type(other.sequence, layer)) {
      throw differ("type of tensors");
    }
    if (other.reader->read_second_pass(other.sequence) ||
        std::any_of(packet_sets.begin(), packet_sets.end(),
                    [&other](PacketSet set) { return other.reader->read_packets(other.sequence, set).has_value(); })) {
      throw Error(
          ErrorCode::unsupported, "a second pass or packets cannot be merged",
          {.file = other.reader->path().string(), .dataset = "/sequences/" + b.name, .parameter = {}, .value = {}});
    }
  }

  void write_sequence(Writer& writer, const std::string& request) const {
    std::vector<Place> places;
    for (const Part& part : parts_) places.push_back(part.requests.at(request));
    for (const Place& place : places) require_same_sequence(places.front(), place);
    SequenceInfo info = places.front().info();
    info.name.clear();
    writer.begin_sequence(info);
    for (const int layer : header().layers) write_layer(writer, places, layer);
    for (const Channel channel : channels) {
      for (const Place& place : places) {
        const auto values = place.reader->read_channel(place.sequence, channel);
        if (!values) continue;
        writer.write_channel(channel, values->data);
        break;
      }
    }
    writer.end_sequence();
  }

  void write_layer(Writer& writer, const std::vector<Place>& places, int layer) const {
    const auto width = static_cast<std::size_t>(header().head_dim);
    std::vector<LayerTensors> tensors;
    std::vector<HeadBlock> q, k, v;
    for (const Place& place : places) tensors.push_back(place.reader->read_layer(place.sequence, layer));
    const auto rows = static_cast<std::size_t>(tensors.front().length);
    const std::vector<std::int32_t>& query_rows = tensors.front().q_rows;
    int reached_kv = 0;
    for (std::size_t index = 0; index < places.size(); ++index) {
      const Part& part = parts_[index];
      const LayerTensors& own = tensors[index];
      const auto refuse = [&](const std::string& rule) {
        return not_mergeable(places[index].reader->path().string(),
                             fmt::format("/sequences/{}/{}", places[index].info().name, layer_name(layer)), rule);
      };
      if (own.q_rows != query_rows) throw refuse("q has other rows than in " + parts_.front().name);
      q.push_back({own.q.data(), static_cast<std::size_t>(part.first_query),
                   static_cast<std::size_t>(part.header().num_query_heads)});
      // KV heads that were there before: ranks that share a head compute it alike.
      for (int head = part.first_kv; head < std::min(reached_kv, part.end_kv()); ++head) {
        const std::size_t offset = static_cast<std::size_t>(head - part.first_kv) * rows * width;
        const std::size_t other = holder(index, head);
        const std::size_t there = static_cast<std::size_t>(head - parts_[other].first_kv) * rows * width;
        if (!same_bits(own.k.data() + offset, tensors[other].k.data() + there, rows * width) ||
            !same_bits(own.v.data() + offset, tensors[other].v.data() + there, rows * width)) {
          throw refuse(fmt::format("KV head {} differs from that in {}", head, parts_[other].name));
        }
      }
      const int first_new = std::max(reached_kv, part.first_kv);
      const std::size_t skipped = static_cast<std::size_t>(first_new - part.first_kv) * rows * width;
      if (first_new >= part.end_kv()) continue;
      const auto fresh = static_cast<std::size_t>(part.end_kv() - first_new);
      k.push_back({own.k.data() + skipped, static_cast<std::size_t>(first_new), fresh});
      v.push_back({own.v.data() + skipped, static_cast<std::size_t>(first_new), fresh});
      reached_kv = part.end_kv();
    }
    append(writer, layer, q, k, v, rows, query_rows);
    for (const Place& place : places) {
      const auto hidden = place.reader->read_hidden(place.sequence, layer);
      if (!hidden) continue;
      writer.append_x(layer, hidden->data);
      break;
    }
  }

  /// The first part that holds a KV head; there is one before part `index`.
  [[nodiscard]] std::size_t holder(std::size_t index, int head) const {
    std::size_t other = 0;
    while (other < index && (head < parts_[other].first_kv || head >= parts_[other].end_kv())) ++other;
    return other;
  }

  void append(Writer& writer, int layer, const std::vector<HeadBlock>& q, const std::vector<HeadBlock>& k,
              const std::vector<HeadBlock>& v, std::size_t rows, const std::vector<std::int32_t>& query_rows) const {
    constexpr std::size_t block = 1024;  // rows that are interleaved at once
    const auto width = static_cast<std::size_t>(header().head_dim);
    const auto all_kv = static_cast<std::size_t>(parts_.front().all_kv);
    const auto all_queries = static_cast<std::size_t>(parts_.front().all_queries);
    for (std::size_t first = 0; first < rows; first += block) {
      const std::size_t count = std::min(block, rows - first);
      writer.append_kv(layer, interleave(k, all_kv, rows, first, count, width),
                       interleave(v, all_kv, rows, first, count, width));
    }
    for (std::size_t first = 0; first < query_rows.size(); first += block) {
      const std::size_t count = std::min(block, query_rows.size() - first);
      writer.append_q(layer, std::span(query_rows).subspan(first, count),
                      interleave(q, all_queries, query_rows.size(), first, count, width));
    }
  }

  const std::vector<Part>& parts_;
  std::vector<std::string> requests_, left_out_;
};

}  // namespace

MergeResult merge(const std::vector<std::filesystem::path>& parts, const std::filesystem::path& output,
                  const MergeOptions& options) {
  if (parts.empty()) throw Error(ErrorCode::invalid_argument, "at least one part is needed", {.parameter = "parts"});
  std::vector<Part> opened;
  for (const std::filesystem::path& part : parts) opened.push_back(open_part(part));
  for (const Part& part : opened) {
    for (const Reader& reader : part.readers) {
      std::error_code ignored;  // No output yet: then it is another file.
      if (std::filesystem::equivalent(reader.path(), output, ignored)) {
        throw not_mergeable(output.string(), {}, "is a part to merge; name another file for the result");
      }
    }
    require_same_model(opened.front().readers.front(), part.readers.front());
  }
  arrange(opened);
  return Merger(opened, options).write(output);
}

}  // namespace evictsim::traces
