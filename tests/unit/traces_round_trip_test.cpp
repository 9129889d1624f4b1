// Is everything that is written read back, in every stored type, and is nothing visible before it is sealed?
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "tests/support/small_trace.h"
#include "traces/checksum.h"
#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/reader.h"
#include "traces/verify.h"
#include "traces/writer.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::test;

namespace {

/// [rows, heads, width] to [heads, rows, width].
std::vector<float> head_major(const std::vector<float>& values, std::size_t heads, std::size_t width) {
  const std::size_t rows = values.size() / heads / width;
  std::vector<float> moved(values.size());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t head = 0; head < heads; ++head) {
      for (std::size_t item = 0; item < width; ++item) {
        moved[(head * rows + row) * width + item] = values[(row * heads + head) * width + item];
      }
    }
  }
  return moved;
}

bool equal(const std::vector<float>& left, const std::vector<float>& right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); });
}

std::size_t files_in(const std::filesystem::path& directory) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator()));
}

std::filesystem::path fresh_directory(const char* name) {
  std::filesystem::remove_all(name);
  std::filesystem::create_directory(name);
  return name;
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("no error was thrown");
  return ErrorCode::unsupported;
}

}  // namespace

TEST_CASE("every dataset and attribute of the format is read back as it was written") {
  const auto type = GENERATE(TensorType::float16, TensorType::bfloat16, TensorType::float32);
  const bool compress = GENERATE(false, true);
  const std::filesystem::path path = "round_trip.h5";
  write_small_trace(path, {type, compress});
  const Reader reader(path);
  const Header& header = reader.header();
  const Header expected = small_header();
  CHECK(header.model == expected.model);
  CHECK(header.created == expected.created);
  CHECK(header.num_query_heads == 4);
  CHECK(header.attention_scale == 0.25);
  CHECK(header.logit_softcap == 30);
  CHECK(header.rope_attention_scaling == 1.5);
  CHECK(header.rope_layout == RopeLayout::interleaved);
  CHECK(header.rotary_dim == 6);
  CHECK(header.norm_kind == NormKind::rms_plus_one);
  CHECK(header.norm_epsilon == 1e-6);
  CHECK(header.dropped_rows == 0);
  CHECK(header.capture_overhead == 1.25);
  CHECK(header.layers == expected.layers);
  CHECK(header.inv_freq == expected.inv_freq);
  CHECK(header.sliding_window == expected.sliding_window);
  CHECK(header.sensitivity == expected.sensitivity);
  CHECK(header.sensitivity_attributes == expected.sensitivity_attributes);
  CHECK(header.extra == expected.extra);
  CHECK(equal(reader.read_weight(1, LayerWeight::w_o)->data, pattern(12 * 32, 1)));
  CHECK(equal(reader.read_weight(3, LayerWeight::output_norm)->data, pattern(12, 9)));
  CHECK_FALSE(reader.read_weight(1, LayerWeight::output_norm));
  CHECK(equal(reader.read_model_tensor(ModelTensor::unembedding)->data, pattern(600, 21)));
  CHECK(reader.read_model_tensor(ModelTensor::unembedding)->shape == std::vector<std::size_t>{50, 12});
  CHECK(equal(reader.read_model_tensor(ModelTensor::final_norm)->data, pattern(12, 22)));

  REQUIRE(reader.sequences().size() == 2);
  for (std::size_t sequence = 0; sequence < 2; ++sequence) {
    const SequenceInfo& info = reader.sequences()[sequence];
    const SequenceInfo wanted = small_sequence();
    CHECK(info.name == "00000" + std::to_string(sequence));
    CHECK(info.prompt_length == 16);
    CHECK(info.length == 20);
    CHECK(info.text == wanted.text);
    CHECK(info.token_texts == wanted.token_texts);
    CHECK(info.positions == wanted.positions);
    CHECK(info.spans == wanted.spans);
    for (const int layer : {1, 3}) {
      const LayerTensors tensors = reader.read_layer(sequence, layer);
      const int seed = 100 * static_cast<int>(sequence) + layer;
      CHECK(equal(tensors.k, head_major(pattern(320, seed), 2, 8)));
      CHECK(equal(tensors.v, head_major(pattern(320, seed + 50), 2, 8)));
      const std::size_t rows = layer == 3 ? 6 : 20;
      REQUIRE(tensors.q_rows.size() == rows);
      CHECK(equal(tensors.q, head_major(pattern(rows * 32, seed + 70), 4, 8)));
      CHECK(reader.stored_type(sequence, layer) == type);
    }
    CHECK(reader.query_rows(sequence, 3) == small_query_rows());
    CHECK(equal(reader.read_hidden(sequence, 1)->data, pattern(240, 31)));
    CHECK_FALSE(reader.has_hidden(sequence, 3));
    for (int index = 0; index <= static_cast<int>(Channel::final_norm_input); ++index) {
      const auto channel = static_cast<Channel>(index);
      const std::optional<Tensor> values = reader.read_channel(sequence, channel);
      REQUIRE(values);
      CHECK(equal(values->data, channel_values(channel, channel_size(channel, 2, 20))));
    }
    const std::optional<SecondPass> rows = reader.read_second_pass(sequence);
    REQUIRE(rows);
    CHECK(rows->positions == small_second_pass().positions);
    CHECK(rows->chunk == small_second_pass().chunk);
    CHECK(equal(reader.read_second_pass_queries(sequence, 1)->data, head_major(pattern(96, 41), 4, 8)));
    CHECK_FALSE(reader.read_second_pass_queries(sequence, 3));
    CHECK(equal(reader.read_second_pass_keys(sequence, 1)->data, head_major(pattern(48, 43), 2, 8)));
    CHECK_FALSE(reader.read_second_pass_keys(sequence, 3));
    for (const PacketSet set : packet_sets) CHECK(reader.read_packets(sequence, set) == small_packets(set));
    const PacketTensors wrapped = reader.read_packet_layer(sequence, 1, PacketSet::wrapped);
    CHECK(equal(wrapped.k, head_major(pattern(192, 44), 2, 8)));
    CHECK(equal(wrapped.v, head_major(pattern(192, 45), 2, 8)));
    CHECK(equal(wrapped.q, head_major(pattern(384, 46), 4, 8)));
    CHECK(equal(wrapped.after_k, head_major(pattern(176, 47), 2, 8)));
    CHECK(equal(wrapped.after_v, head_major(pattern(176, 48), 2, 8)));
    CHECK(equal(wrapped.after_q, head_major(pattern(352, 49), 4, 8)));
    CHECK_FALSE(reader.packet_contents(sequence, 3, PacketSet::wrapped).rows);
    CHECK(reader.read_packet_layer(sequence, 3, PacketSet::wrapped).k.empty());
    const PacketContents bare = reader.packet_contents(sequence, 3, PacketSet::bare);
    CHECK((bare.rows && !bare.queries && !bare.after));
    std::vector<float> first_rows = pattern(192, 44);
    first_rows.resize(7 * 16);
    CHECK(equal(reader.read_packet_layer(sequence, 3, PacketSet::bare).k, head_major(first_rows, 2, 8)));
  }
  CHECK(verify(path).empty());
}

TEST_CASE("packets that break a rule are not written") {
  const auto refused = [](const std::function<void(Writer&)>& write, const std::string& rule) {
    Writer writer("packets.h5", small_header());
    writer.begin_sequence(small_sequence());
    for (const int layer : small_header().layers) {
      writer.append_kv(layer, pattern(20 * 16, 1), pattern(20 * 16, 2));
    }
    writer.write_channel(Channel::token_ids, channel_values(Channel::token_ids, 20));
    CHECK_THROWS_WITH((write(writer), writer.end_sequence()), Catch::Contains(rule));
  };
  const std::vector<float> rows = pattern(4 * 16, 3);
  const PacketRows four{.k = rows, .v = rows, .q = {}};
  refused([&](Writer& writer) { writer.append_packet_rows(PacketSet::bare, 1, four); },
          "write_packets must come first");
  refused([&](Writer& writer) { writer.write_packets(PacketSet::bare, {}); }, "at least one document");
  refused([&](Writer& writer) { writer.write_packets(PacketSet::bare, {{{4, 4}}}); }, "none empty");
  refused([&](Writer& writer) { writer.write_packets(PacketSet::bare, {{{4, 8}}, {{7, 9}}}); }, "apart");
  refused([&](Writer& writer) { writer.write_packets(PacketSet::bare, {{{4, 8}, -1, 0}}); }, "none negative");
  refused([&](Writer& writer) { writer.write_packets(PacketSet::bare, {{{18, 20}}}); }, "inside the prompt");
  refused(
      [&](Writer& writer) {
        writer.write_packets(PacketSet::bare, {{{4, 9}}});
        writer.append_packet_rows(PacketSet::bare, 1, four);
      },
      "must have 5 rows");
  refused(
      [&](Writer& writer) {
        writer.write_packets(PacketSet::bare, {{{4, 8}}});
        writer.append_packet_rows(PacketSet::bare, 1, {.k = rows, .v = {}, .q = {}});
      },
      "v must be written");
  refused(
      [&](Writer& writer) {
        writer.write_packets(PacketSet::bare, {{{4, 8}}});
        writer.write_packets(PacketSet::bare, {{{4, 8}}});
      },
      "written before");
}

TEST_CASE("rows that fill many chunks come back in order") {
  Header header = small_header();
  header.layers = {0};
  header.sliding_window.clear();
  header.sensitivity.clear();
  header.num_kv_heads = 4;
  header.head_dim = 64;
  header.rotary_dim = 64;
  header.inv_freq.assign(32, 0.5);
  SequenceInfo info = small_sequence(3000);
  {
    Writer writer("long.h5", header, {TensorType::float16, false});
    writer.begin_sequence(info);
    for (std::int32_t first = 0; first < 3000; first += 7) {
      const std::int32_t rows = std::min(7, 3000 - first);
      std::vector<float> k(static_cast<std::size_t>(rows) * 256);
      for (std::size_t index = 0; index < k.size(); ++index) {
        k[index] =
            static_cast<float>(first + static_cast<std::int32_t>(index / 256)) + static_cast<float>(index / 64 % 4) / 4;
        if (k[index] >= 2048) k[index] = std::floor(k[index] / 2) * 2;
      }
      writer.append_kv(0, k, k);
    }
    writer.write_channel(Channel::token_ids, std::vector<float>(3000, 1.0F));
    writer.end_sequence();
    writer.seal();
  }
  const LayerTensors tensors = Reader("long.h5").read_layer(0, 0);
  int wrong = 0;
  for (std::size_t head = 0; head < 4; ++head) {
    for (std::size_t row = 0; row < 3000; ++row) {
      float expected = static_cast<float>(row) + static_cast<float>(head) / 4;
      if (expected >= 2048) expected = std::floor(expected / 2) * 2;
      // Values between 1024 and 2048 have no room for the head's fraction.
      wrong += std::abs(tensors.k[(head * 3000 + row) * 64 + 63] - expected) > 0.5F;
    }
  }
  CHECK(wrong == 0);
  CHECK(tensors.q_rows.empty());
}

TEST_CASE("values do not depend on how a valid file lays them out") {
  const std::filesystem::path path = "layout.h5";
  const char* const name = "/sequences/000000/layer_003/k";
  write_small_trace(path, {TensorType::float32, false}, 1);
  const std::vector<float> values = pattern(320, 7);
  const std::vector<std::vector<hsize_t>> chunks = {{}, {7, 2, 8}, {20, 2, 8}, {7, 1, 8}, {3, 2, 5}};
  for (const std::vector<hsize_t>& chunk : chunks) {
    edit_file(path, [&](hid_t file) {
      H5Ldelete(file, name, H5P_DEFAULT);
      const hsize_t extents[3] = {20, 2, 8};
      const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
      if (!chunk.empty()) H5Pset_chunk(properties, 3, chunk.data());
      const hid_t space = H5Screate_simple(3, extents, nullptr);
      const hid_t dataset = H5Dcreate2(file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      CHECK(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0);
      H5Dclose(dataset);
      H5Sclose(space);
      H5Pclose(properties);
    });
    CHECK(equal(Reader(path).read_layer(0, 3).k, head_major(values, 2, 8)));
    // HDF5 also looks for its signature at byte 512: what lies before is a user's.
    const std::filesystem::path behind = "behind_user_block.h5";
    {
      std::ifstream original(path, std::ios::binary);
      std::ofstream(behind, std::ios::binary) << std::string(512, 'u') << original.rdbuf();
    }
    CHECK(equal(Reader(behind).read_layer(0, 3).k, head_major(values, 2, 8)));
  }
}

TEST_CASE("tensors that are read into the same memory do not mix") {
  write_small_trace("reused.h5", {TensorType::bfloat16, true});
  const Reader reader("reused.h5");
  LayerTensors tensors;
  for (const int layer : {1, 3, 1}) {
    reader.read_layer(1, layer, tensors);
    const LayerTensors fresh = reader.read_layer(1, layer);
    CHECK(equal(tensors.k, fresh.k));
    CHECK(equal(tensors.v, fresh.v));
    CHECK(equal(tensors.q, fresh.q));
    CHECK(tensors.q_rows == fresh.q_rows);
  }
}

TEST_CASE("nothing is visible under the final name before the seal, and nothing is left after a failure") {
  const std::filesystem::path directory = fresh_directory("sealing");
  const std::filesystem::path path = directory / "trace.h5";
  {
    Writer writer(path, small_header());
    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(files_in(directory) == 1);
    writer.begin_sequence(small_sequence());
    CHECK(code_of([&] { writer.seal(); }) == ErrorCode::invalid_argument);
    CHECK(code_of([&] { writer.end_sequence(); }) == ErrorCode::missing_data);
    CHECK_FALSE(std::filesystem::exists(path));
  }
  CHECK(files_in(directory) == 0);
  write_small_trace(path);
  CHECK(files_in(directory) == 1);
  CHECK_NOTHROW(Reader(path));
}

TEST_CASE("a finished trace is replaced only by another finished one") {
  const std::filesystem::path path = fresh_directory("replacing") / "trace.h5";
  write_small_trace(path);
  const std::string before = Reader(path).checksum();
  { Writer abandoned(path, small_header()); }
  CHECK(Reader(path).checksum() == before);
  write_small_trace(path, {TensorType::float32, false});
  CHECK(Reader(path).checksum() != before);
}

TEST_CASE("the writer refuses what would not be a valid trace") {
  const auto refused = [](const std::function<void(Writer&)>& action, const WriterOptions& options = {}) {
    Writer writer("refused.h5", small_header(), options);
    writer.begin_sequence(small_sequence());
    return code_of([&] { action(writer); });
  };
  const std::vector<float> row(16, 1.0F);
  CHECK(refused([&](Writer& writer) { writer.append_kv(2, row, row); }) == ErrorCode::invalid_argument);
  CHECK(refused([&](Writer& writer) { writer.append_kv(1, std::span(row).first(15), std::span(row).first(15)); }) ==
        ErrorCode::wrong_shape);
  CHECK(refused([&](Writer& writer) { writer.append_kv(1, std::vector<float>(16, NAN), row); }) ==
        ErrorCode::invalid_value);
  CHECK(refused([&](Writer& writer) { writer.append_kv(1, std::vector<float>(16, 65520.0F), row); }) ==
        ErrorCode::invalid_value);
  const std::vector<std::int32_t> descending = {5, 4};
  CHECK(refused([&](Writer& writer) { writer.append_q(1, descending, std::vector<float>(64, 0.0F)); }) ==
        ErrorCode::invalid_value);
  Header header = small_header();
  header.num_query_heads = 5;
  CHECK(code_of([&] { Writer("refused.h5", header); }) == ErrorCode::invalid_value);
  CHECK(code_of([&] { Writer("no/such/directory/trace.h5", small_header()); }) == ErrorCode::file_not_found);
}

TEST_CASE("a directory of shards is read through its manifest, and altered shards are refused") {
  const std::filesystem::path directory = fresh_directory("shards");
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::missing_data);
  for (const char* name : {"000000.h5", "000001.h5"}) {
    write_small_trace(directory / name, {}, 1);
    append_to_manifest(directory, describe_shard(directory / name));
  }
  const std::vector<Shard> shards = read_manifest(directory).shards;
  REQUIRE(shards.size() == 2);
  CHECK(shards[1].name == "000001.h5");
  CHECK(shards[1].sequences == 1);
  CHECK(shards[1].tokens == 20);
  CHECK(shards[1].bytes == std::filesystem::file_size(directory / "000001.h5"));
  CHECK(shards[1].checksum == shard_checksum(directory / "000001.h5"));
  CHECK(open_traces({directory, directory / "000000.h5"}).size() == 3);
  CHECK(verify(directory).empty());

  // Manifests of older captures say SHA-256.
  std::filesystem::remove(directory / manifest_name);
  for (Shard old : shards) {
    old.checksum = file_checksum(directory / old.name);
    append_to_manifest(directory, old);
  }
  CHECK(open_traces({directory}).size() == 2);
  CHECK(verify(directory).empty());

  write_small_trace(directory / "000001.h5", {TensorType::float32, false}, 1);
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::checksum_mismatch);
  REQUIRE(verify(directory).size() == 1);
  CHECK(verify(directory)[0].line.find("000001.h5") != std::string::npos);
  std::filesystem::remove(directory / "000001.h5");
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::file_not_found);
  std::ofstream(directory / "manifest.jsonl", std::ios::app) << R"({"name": "../x.h5", "sequences": 1})" << '\n';
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::invalid_value);
}
