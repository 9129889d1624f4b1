#pragma once
// A small valid trace with every dataset and attribute of the format, and edits that break it.

#include <hdf5.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "traces/writer.h"

namespace evictsim::traces::test {

inline Header small_header() {
  Header header;
  header.model = "small";
  header.engine = "test";
  header.engine_version = "1";
  header.created = "2026-01-01T00:00:00Z";
  header.num_layers = 4;
  header.num_query_heads = 4;
  header.num_kv_heads = 2;
  header.head_dim = 8;
  header.hidden_size = 12;
  header.vocab_size = 50;
  header.attention_scale = 0.25;
  header.logit_softcap = 30;
  header.rope_theta = 10000;
  header.rope_attention_scaling = 1.5;
  header.rope_layout = RopeLayout::interleaved;
  header.rotary_dim = 6;
  header.norm_epsilon = 1e-6;
  header.norm_kind = NormKind::rms_plus_one;
  header.dropped_rows = 0;
  header.capture_overhead = 1.25;
  header.layers = {1, 3};
  header.inv_freq = {1, 0.1, 0.01};
  header.sliding_window = {0, 6};
  header.sensitivity = {0.5, 2};
  header.sensitivity_attributes = {{"method", "noise"}};
  header.extra = {{"capture_threads", "1"}};
  return header;
}

/// Numbers that float16 and bfloat16 hold exactly, different everywhere.
inline std::vector<float> pattern(std::size_t count, int seed) {
  std::vector<float> values(count);
  for (std::size_t index = 0; index < count; ++index) {
    values[index] = static_cast<float>((static_cast<int>(index) * 37 + seed * 11) % 127 - 63) / 32.0F;
  }
  return values;
}

inline SequenceInfo small_sequence(std::int32_t length = 20) {
  SequenceInfo info;
  info.prompt_length = length - 4;
  info.length = length;
  info.request_id = "r";
  info.task = "needle";
  info.text = "two\nlines";
  // An empty token, one with a zero, and a character in two halves.
  info.token_texts.emplace(static_cast<std::size_t>(length), " word");
  (*info.token_texts)[0].clear();
  (*info.token_texts)[1] = std::string("\0<", 2);
  (*info.token_texts)[2] = "\xC3";
  (*info.token_texts)[3] = "\xA9";
  info.positions.resize(static_cast<std::size_t>(length));
  std::iota(info.positions.begin(), info.positions.end(), 3);
  info.spans = {{"evidence", {{2, 5}, {7, 8}}}, {"turn", {{0, length}}}, {"distractor", {{10, 11}}}};
  return info;
}

inline std::size_t channel_size(Channel channel, std::size_t layers, std::size_t length) {
  switch (channel) {
    case Channel::entropy_top:
      return 3 * length;
    case Channel::step_norm:
    case Channel::cos_final:
    case Channel::cos_attention:
    case Channel::residual_norm:
      return layers * length;
    default:
      return length;
  }
}

inline std::vector<float> channel_values(Channel channel, std::size_t count) {
  std::vector<float> values = pattern(count, 5 + static_cast<int>(channel));
  if (channel == Channel::token_ids) {
    for (std::size_t index = 0; index < count; ++index) values[index] = static_cast<float>(index % 50);
  }
  if (channel == Channel::logprob) values[0] = NAN;
  return values;
}

inline const std::vector<std::int32_t>& small_query_rows() {
  static const std::vector<std::int32_t> rows = {4, 9, 16, 17, 18, 19};
  return rows;
}

inline SecondPass small_second_pass() { return {{100, 101, 105}, {{0, 8}, {8, 16}, {8, 20}}}; }

inline Packets small_packets(PacketSet set) {
  if (set == PacketSet::bare) return {{{2, 6}}, {{6, 9}}};
  return {{{2, 6}, 2, 1}, {{7, 9}, 0, 3}};
}

/// Layer 1 has all of the wrapped packets; layer 3 k and v of the bare ones.
inline void write_small_packets(Writer& writer) {
  writer.write_packets(PacketSet::wrapped, small_packets(PacketSet::wrapped));
  writer.write_packets(PacketSet::bare, small_packets(PacketSet::bare));
  const std::vector<float> k = pattern(12 * 16, 44), v = pattern(12 * 16, 45), q = pattern(12 * 32, 46);
  for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 5}, {5, 7}}) {
    writer.append_packet_rows(PacketSet::wrapped, 1,
                              {.k = std::span(k).subspan(first * 16, count * 16),
                               .v = std::span(v).subspan(first * 16, count * 16),
                               .q = std::span(q).subspan(first * 32, count * 32)});
  }
  const std::vector<float> after_k = pattern(11 * 16, 47), after_v = pattern(11 * 16, 48),
                           after_q = pattern(11 * 32, 49);
  writer.append_rows_after_packets(PacketSet::wrapped, 1, {.k = after_k, .v = after_v, .q = after_q});
  writer.append_packet_rows(PacketSet::bare, 3,
                            {.k = std::span(k).first(7 * 16), .v = std::span(v).first(7 * 16), .q = {}});
}

/// Layer 1 has all queries and x, layer 3 some queries; written in several pieces.
inline void write_small_trace(const std::filesystem::path& path, const WriterOptions& options = {}, int sequences = 2,
                              const Header& header = small_header()) {
  Writer writer(path, header, options);
  const auto hidden = static_cast<std::size_t>(header.hidden_size);
  for (const int layer : header.layers) {
    writer.write_weight(layer, LayerWeight::w_o, pattern(hidden * 32, layer));
    writer.write_weight(layer, LayerWeight::input_norm, pattern(hidden, layer + 1));
  }
  writer.write_weight(3, LayerWeight::output_norm, pattern(hidden, 9));
  writer.write_model_tensor(ModelTensor::unembedding, pattern(50 * hidden, 21));
  writer.write_model_tensor(ModelTensor::final_norm, pattern(hidden, 22));
  for (int sequence = 0; sequence < sequences; ++sequence) {
    const SequenceInfo info = small_sequence();
    writer.begin_sequence(info);
    for (const int layer : header.layers) {
      const std::vector<float> k = pattern(20 * 16, 100 * sequence + layer);
      const std::vector<float> v = pattern(20 * 16, 100 * sequence + layer + 50);
      for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 3}, {3, 16}, {19, 1}}) {
        writer.append_kv(layer, std::span(k).subspan(first * 16, count * 16),
                         std::span(v).subspan(first * 16, count * 16));
      }
      std::vector<std::int32_t> rows(20);
      std::iota(rows.begin(), rows.end(), 0);
      if (layer == 3) rows = small_query_rows();
      writer.append_q(layer, rows, pattern(rows.size() * 32, 100 * sequence + layer + 70));
    }
    writer.append_x(1, pattern(20 * hidden, 31));
    for (int channel = 0; channel <= static_cast<int>(Channel::final_norm_input); ++channel) {
      const auto kind = static_cast<Channel>(channel);
      writer.write_channel(kind, channel_values(kind, channel_size(kind, header.layers.size(), 20)));
    }
    writer.write_second_pass(small_second_pass());
    writer.append_second_pass_q(1, pattern(3 * 32, 41));
    writer.append_second_pass_k(1, pattern(3 * 16, 43));
    write_small_packets(writer);
    writer.end_sequence();
  }
  writer.seal();
}

/// Opens the file with HDF5 itself, applies `edit` to the root, closes it.
inline void edit_file(const std::filesystem::path& path, const std::function<void(hid_t)>& edit) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  edit(file);
  H5Fclose(file);
}

/// Replaces a dataset by one of that shape and type; `values` are of `memory_type`.
inline void replace_dataset(hid_t file, const char* name, const std::vector<hsize_t>& shape, hid_t type,
                            hid_t memory_type, const void* values) {
  if (H5Lexists(file, name, H5P_DEFAULT) > 0) H5Ldelete(file, name, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  if (values != nullptr) H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(dataset);
  H5Sclose(space);
}

inline void replace_floats(hid_t file, const char* name, const std::vector<hsize_t>& shape,
                           const std::vector<float>& values) {
  replace_dataset(file, name, shape, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, values.data());
}

inline void replace_integers(hid_t file, const char* name, const std::vector<hsize_t>& shape,
                             const std::vector<int>& values) {
  replace_dataset(file, name, shape, H5T_STD_I32LE, H5T_NATIVE_INT, values.data());
}

inline void delete_attribute(hid_t file, const char* object, const char* name) {
  H5Adelete_by_name(file, object, name, H5P_DEFAULT);
}

inline void set_integer(hid_t file, const char* object, const char* name, long long value) {
  if (H5Aexists_by_name(file, object, name, H5P_DEFAULT) > 0) delete_attribute(file, object, name);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute =
      H5Acreate_by_name(file, object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, H5T_NATIVE_LLONG, &value);
  H5Aclose(attribute);
  H5Sclose(space);
}

inline void set_text(hid_t file, const char* object, const char* name, const std::string& value) {
  if (H5Aexists_by_name(file, object, name, H5P_DEFAULT) > 0) delete_attribute(file, object, name);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, value.size() + 1);
  const hid_t attribute = H5Acreate_by_name(file, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value.c_str());
  H5Aclose(attribute);
  H5Tclose(type);
  H5Sclose(space);
}

}  // namespace evictsim::traces::test
