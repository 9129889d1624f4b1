// Do captures of single ranks become the trace that one rank alone would have written, and are those that do not fit
// named?
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/small_trace.h"
#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/merge.h"
#include "traces/slice.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::test;

namespace {

struct Shape {
  int query_heads = 4, kv_heads = 2;
  std::vector<std::string> requests = {"a", "b"};
  std::int32_t length = 20;
  TensorType type = TensorType::float16;
};

/// Values that tell the whole model's heads apart, of one tensor: [rows, heads of the model, 8].
std::vector<float> whole(std::size_t rows, int heads, int seed) {
  return pattern(rows * static_cast<std::size_t>(heads) * 8, seed);
}

/// Blocks [first, end) of `heads` ones in every row.
std::vector<float> cut(const std::vector<float>& values, int heads, int first, int end) {
  std::vector<float> kept;
  const auto row = static_cast<std::size_t>(heads) * 8;
  for (std::size_t start = 0; start < values.size(); start += row) {
    kept.insert(kept.end(), values.begin() + static_cast<std::ptrdiff_t>(start + static_cast<std::size_t>(first) * 8),
                values.begin() + static_cast<std::ptrdiff_t>(start + static_cast<std::size_t>(end) * 8));
  }
  return kept;
}

/// What a rank with query heads [first, end) of `shape` writes; the KV heads are those that they need.
void write_rank(const std::string& path, const Shape& shape, int first, int end, bool says_heads = true,
                int other_values = 0) {
  const int group = shape.query_heads / shape.kv_heads;
  const int first_kv = first / group, end_kv = (end - 1) / group + 1;
  Header header = small_header();
  header.num_query_heads = end - first;
  header.num_kv_heads = end_kv - first_kv;
  header.dropped_rows = first;
  if (says_heads) {
    header.extra[first_query_head_attribute] = std::to_string(first);
    header.extra[first_kv_head_attribute] = std::to_string(first_kv);
    header.extra[all_query_heads_attribute] = std::to_string(shape.query_heads);
    header.extra[all_kv_heads_attribute] = std::to_string(shape.kv_heads);
  }
  Writer writer(path, header, {shape.type, true});
  for (const int layer : header.layers) {
    writer.write_weight(layer, LayerWeight::w_o,
                        cut(whole(12, shape.query_heads, layer), shape.query_heads, first, end));
    writer.write_weight(layer, LayerWeight::input_norm, pattern(12, layer + 1));
  }
  for (std::size_t sequence = 0; sequence < shape.requests.size(); ++sequence) {
    SequenceInfo info = small_sequence(shape.length);
    info.request_id = shape.requests[sequence];
    const int seed = 100 * info.request_id->front() + other_values;
    const auto rows = static_cast<std::size_t>(shape.length);
    writer.begin_sequence(info);
    for (const int layer : header.layers) {
      writer.append_kv(layer, cut(whole(rows, shape.kv_heads, seed + layer), shape.kv_heads, first_kv, end_kv),
                       cut(whole(rows, shape.kv_heads, seed + layer + 50), shape.kv_heads, first_kv, end_kv));
      const std::vector<std::int32_t> query_rows = {1, 5, shape.length - 1};
      writer.append_q(
          layer, query_rows,
          cut(whole(query_rows.size(), shape.query_heads, seed + layer + 70), shape.query_heads, first, end));
    }
    writer.append_x(1, pattern(rows * 12, 31));
    for (const Channel channel : {Channel::token_ids, Channel::entropy, Channel::residual_norm}) {
      writer.write_channel(channel, channel_values(channel, channel_size(channel, 2, rows)));
    }
    writer.end_sequence();
  }
  writer.seal();
}

void require_same(const std::string& merged, const std::string& expected) {
  const Reader a(merged), b(expected);
  REQUIRE(a.sequences().size() == b.sequences().size());
  CHECK(a.header().num_query_heads == b.header().num_query_heads);
  CHECK(a.header().num_kv_heads == b.header().num_kv_heads);
  CHECK(a.header().inv_freq == b.header().inv_freq);
  CHECK_FALSE(a.header().extra.contains(first_query_head_attribute));
  for (const int layer : a.header().layers) {
    CHECK(a.read_weight(layer, LayerWeight::w_o)->data == b.read_weight(layer, LayerWeight::w_o)->data);
    CHECK(a.read_weight(layer, LayerWeight::input_norm)->data == b.read_weight(layer, LayerWeight::input_norm)->data);
    for (std::size_t sequence = 0; sequence < a.sequences().size(); ++sequence) {
      const LayerTensors left = a.read_layer(sequence, layer), right = b.read_layer(sequence, layer);
      CHECK(left.q_rows == right.q_rows);
      CHECK(left.k == right.k);
      CHECK(left.v == right.v);
      CHECK(left.q == right.q);
      CHECK(a.stored_type(sequence, layer) == b.stored_type(sequence, layer));
      CHECK(a.has_hidden(sequence, layer) == (layer == 1));
    }
  }
  for (std::size_t sequence = 0; sequence < a.sequences().size(); ++sequence) {
    CHECK(a.sequences()[sequence].request_id == b.sequences()[sequence].request_id);
    CHECK(a.sequences()[sequence].positions == b.sequences()[sequence].positions);
    CHECK(a.sequences()[sequence].spans == b.sequences()[sequence].spans);
    CHECK(a.read_hidden(sequence, 1)->data == b.read_hidden(sequence, 1)->data);
    for (const Channel channel : {Channel::token_ids, Channel::entropy, Channel::residual_norm}) {
      CHECK(a.read_channel(sequence, channel)->data == b.read_channel(sequence, channel)->data);
    }
    CHECK_FALSE(a.has_channel(sequence, Channel::logprob));
  }
}

}  // namespace

TEST_CASE("ranks merge into the whole, in any order and type") {
  Shape shape;
  shape.type = GENERATE(TensorType::float16, TensorType::bfloat16, TensorType::float32);
  write_rank("whole.h5", shape, 0, 4, false);
  write_rank("first.h5", shape, 0, 2);
  write_rank("second.h5", shape, 2, 4);
  const MergeResult result = merge({"second.h5", "first.h5"}, "merged.h5");
  CHECK(result.sequences == 2);
  CHECK(result.left_out.empty());
  CHECK(verify("merged.h5").empty());
  require_same("merged.h5", "whole.h5");
  const Header header = Reader("merged.h5").header();
  CHECK(header.dropped_rows == 2);
  CHECK(header.extra.at("capture_merged_parts") == "2");
}

TEST_CASE("ranks that share a KV head give it once, and must agree in it") {
  Shape shape;
  shape.query_heads = 8;
  write_rank("whole.h5", shape, 0, 8, false);
  std::vector<std::filesystem::path> parts;
  for (int rank = 0; rank < 4; ++rank) {
    parts.emplace_back("rank" + std::to_string(rank) + ".h5");
    write_rank(parts.back(), shape, 2 * rank, 2 * rank + 2);
  }
  merge(parts, "merged.h5");
  require_same("merged.h5", "whole.h5");
  write_rank("rank3.h5", shape, 6, 8, true, 1);
  CHECK_THROWS_WITH(merge(parts, "refused.h5"), Catch::Contains("KV head 1 differs") && Catch::Contains("rank2.h5"));
}

TEST_CASE("directories of shards merge by request, whatever their order") {
  Shape shape;
  shape.requests = {"a", "b", "c"};
  write_rank("whole.h5", shape, 0, 4, false);
  const std::vector<std::vector<std::vector<std::string>>> shards = {{{"a"}, {"b", "c"}}, {{"c", "a"}, {"b"}}};
  for (int rank = 0; rank < 2; ++rank) {
    const std::string folder = "rank" + std::to_string(rank);
    std::filesystem::remove_all(folder);
    std::filesystem::create_directory(folder);
    int number = 0;
    for (const auto& requests : shards[static_cast<std::size_t>(rank)]) {
      const std::string name = "shard" + std::to_string(number++) + ".h5";
      Shape part = shape;
      part.requests = requests;
      write_rank(folder + "/" + name, part, 2 * rank, 2 * rank + 2);
      append_to_manifest(folder, describe_shard(folder + "/" + name));
    }
  }
  CHECK(merge({"rank1", "rank0"}, "merged.h5").sequences == 3);
  require_same("merged.h5", "whole.h5");
}

TEST_CASE("requests that are not whole everywhere are named, or left out on request") {
  Shape shape, fewer, shorter;
  shape.requests = {"a", "b", "c"};
  fewer.requests = {"a", "b"};
  write_rank("first.h5", shape, 0, 2);
  write_rank("second.h5", fewer, 2, 4);
  CHECK_THROWS_WITH(merge({"first.h5", "second.h5"}, "refused.h5"),
                    Catch::Contains("second.h5") && Catch::Contains("request c") && Catch::Contains("--complete-only"));
  const MergeResult result = merge({"first.h5", "second.h5"}, "merged.h5", {.complete_only = true});
  CHECK(result.left_out == std::vector<std::string>{"c"});
  write_rank("whole.h5", fewer, 0, 4, false);
  require_same("merged.h5", "whole.h5");
  shorter.requests = {"a", "b", "c"};
  shorter.length = 19;
  write_rank("second.h5", shorter, 2, 4);
  CHECK_THROWS_WITH(merge({"first.h5", "second.h5"}, "refused.h5"), Catch::Contains("must have 20 tokens"));
  CHECK_THROWS_WITH(merge({"first.h5", "second.h5"}, "refused.h5", {.complete_only = true}),
                    Catch::Contains("no request is whole"));
  CHECK_FALSE(std::filesystem::exists("refused.h5"));
}

TEST_CASE("parts that do not make one model are refused") {
  const Shape shape;
  write_rank("first.h5", shape, 0, 2);
  write_rank("second.h5", shape, 2, 4);
  const auto refused = [](const std::vector<std::filesystem::path>& parts, const std::string& text) {
    CHECK_THROWS_WITH(merge(parts, "refused.h5"), Catch::Contains(text));
    CHECK_FALSE(std::filesystem::exists("refused.h5"));
  };
  refused({}, "at least one part");
  refused({"first.h5"}, "hold 2 of 4 query heads");
  refused({"second.h5"}, "no part holds query heads 0 to 1");
  refused({"first.h5", "first.h5", "second.h5"}, "query head 0 is in another part too");
  refused({"first.h5", "missing.h5"}, "missing.h5");
  CHECK_THROWS_WITH(merge({"first.h5", "second.h5"}, "second.h5"), Catch::Contains("is a part to merge"));

  write_rank("plain.h5", shape, 2, 4, false);
  refused({"first.h5", "plain.h5"}, first_query_head_attribute);
  const auto edited = [&](const std::function<void(hid_t)>& edit) {
    write_rank("edited.h5", shape, 2, 4);
    edit_file("edited.h5", edit);
  };
  edited([](hid_t file) { set_text(file, ".", "model", "other"); });
  refused({"first.h5", "edited.h5"}, "must be small");
  edited([](hid_t file) { set_text(file, ".", first_query_head_attribute, "two"); });
  refused({"first.h5", "edited.h5"}, "must be a head's index");
  edited([](hid_t file) { set_text(file, ".", first_kv_head_attribute, "0"); });
  refused({"first.h5", "edited.h5"}, "belong to KV heads 1 to 1");
  edited([](hid_t file) { set_text(file, ".", all_query_heads_attribute, "6"); });
  refused({"first.h5", "edited.h5"}, "must be 4");
  edited([](hid_t file) { H5Adelete_by_name(file, "/sequences/000001", "request_id", H5P_DEFAULT); });
  refused({"first.h5", "edited.h5"}, "needs a request_id");
  edited([](hid_t file) { set_text(file, "/sequences/000001", "request_id", "a"); });
  refused({"first.h5", "edited.h5"}, "twice");
  edited([](hid_t file) { set_integer(file, "/sequences/000000", "prompt_length", 3); });
  refused({"first.h5", "edited.h5"}, "other prompt_length");
  edited([](hid_t file) {
    const std::vector<int> ids(20, 7);
    replace_integers(file, "/sequences/000001/token_ids", {20}, ids);
  });
  refused({"first.h5", "edited.h5"}, "other token_ids");
  edited([](hid_t file) { replace_integers(file, "/sequences/000000/layer_003/q_rows", {3}, {1, 6, 19}); });
  refused({"first.h5", "edited.h5"}, "other rows");
  edited([](hid_t file) { H5Ldelete(file, "/model/layer_001/w_o", H5P_DEFAULT); });
  refused({"first.h5", "edited.h5"}, "only some parts have it");
  Header header = small_header();
  header.extra[first_query_head_attribute] = header.extra[first_kv_head_attribute] = "0";
  header.extra[all_query_heads_attribute] = "4";
  header.extra[all_kv_heads_attribute] = "2";
  write_small_trace("passes.h5", {}, 1, header);
  refused({"passes.h5"}, "a second pass or packets cannot be merged");
  Shape other = shape;
  other.type = TensorType::float32;
  write_rank("edited.h5", other, 2, 4);
  refused({"first.h5", "edited.h5"}, "other type of tensors");
}
