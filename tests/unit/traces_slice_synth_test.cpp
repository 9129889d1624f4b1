// Does a slice hold the chosen part bit for bit, and does a synthetic trace have the structure it was asked for?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/support/small_trace.h"
#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/reader.h"
#include "traces/slice.h"
#include "traces/synthesize.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::test;

namespace {

/// Attention weights of row `place` of q under head `head`, in double.
std::vector<double> attention(const Header& header, const LayerTensors& tensors, std::size_t head, std::size_t place) {
  const auto width = static_cast<std::size_t>(header.head_dim);
  const auto length = static_cast<std::size_t>(tensors.length);
  const std::size_t kv = head / static_cast<std::size_t>(header.group_size());
  const auto row = static_cast<std::size_t>(tensors.q_rows[place]);
  std::vector<double> weights(row + 1);
  double sum = 0;
  for (std::size_t entry = 0; entry <= row; ++entry) {
    double logit = 0;
    for (std::size_t item = 0; item < width; ++item) {
      logit += static_cast<double>(tensors.q[(head * tensors.q_rows.size() + place) * width + item]) *
               static_cast<double>(tensors.k[(kv * length + entry) * width + item]);
    }
    sum += weights[entry] = std::exp(logit * header.attention_scale);
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

double mass(const std::vector<double>& weights, const Span& span) {
  double sum = 0;
  // Entries behind the row have no weight.
  const std::int32_t last = std::min(span.last, static_cast<std::int32_t>(weights.size()));
  for (std::int32_t token = span.first; token < last; ++token) sum += weights[static_cast<std::size_t>(token)];
  return sum;
}

}  // namespace

TEST_CASE("a slice keeps chosen layers, heads, sequences and rows exactly") {
  const auto type = GENERATE(TensorType::float16, TensorType::bfloat16, TensorType::float32);
  write_small_trace("source.h5", {type, true});
  SliceOptions options;
  options.layers = {3};
  options.kv_heads = {1};
  options.sequences = {"1"};
  options.first_row = 5;
  options.last_row = 18;
  slice("source.h5", "slice.h5", options);
  CHECK(verify("slice.h5").empty());
  const Reader source("source.h5");
  const Reader sliced("slice.h5");
  CHECK(sliced.header().num_layers == 4);
  CHECK(sliced.header().layers == std::vector<int>{3});
  CHECK(sliced.header().sliding_window == std::vector<int>{6});
  CHECK(sliced.header().num_kv_heads == 1);
  CHECK(sliced.header().num_query_heads == 2);
  CHECK(sliced.header().extra == source.header().extra);
  REQUIRE(sliced.sequences().size() == 1);
  const SequenceInfo& info = sliced.sequences()[0];
  CHECK(info.name == "000001");
  CHECK(info.length == 13);
  CHECK(info.prompt_length == 11);
  CHECK(info.positions.front() == 8);
  CHECK(info.token_texts == std::vector<std::string>(13, " word"));
  CHECK(info.spans.at("evidence") == std::vector<Span>{{2, 3}});
  CHECK(info.spans.at("turn") == std::vector<Span>{{0, 13}});
  CHECK(sliced.stored_type(0, 3) == type);
  const LayerTensors all = source.read_layer(1, 3);
  const LayerTensors part = sliced.read_layer(0, 3);
  CHECK(std::equal(part.k.begin(), part.k.end(), all.k.begin() + (20 + 5) * 8));
  CHECK(std::equal(part.v.begin(), part.v.end(), all.v.begin() + (20 + 5) * 8));
  CHECK(part.q_rows == std::vector<std::int32_t>{4, 11, 12});
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t item = 0; item < 24; ++item)
      CHECK(part.q[head * 24 + item] == all.q[((head + 2) * 6 + 1) * 8 + item]);
  }
  const Tensor w_o = *sliced.read_weight(3, LayerWeight::w_o);
  const Tensor all_w_o = *source.read_weight(3, LayerWeight::w_o);
  REQUIRE(w_o.shape == std::vector<std::size_t>{12, 16});
  for (std::size_t row = 0; row < 12; ++row) {
    for (std::size_t column = 0; column < 16; ++column)
      CHECK(w_o.data[row * 16 + column] == all_w_o.data[row * 32 + 16 + column]);
  }
  const Tensor norms = *sliced.read_channel(0, Channel::residual_norm);
  const Tensor all_norms = *source.read_channel(1, Channel::residual_norm);
  for (std::size_t row = 0; row < 13; ++row) CHECK(norms.data[row] == all_norms.data[20 + 5 + row]);
  CHECK(sliced.read_channel(0, Channel::step_norm)->data[0] == 0);
  CHECK(std::isnan(sliced.read_channel(0, Channel::logprob)->data[0]));
  CHECK(sliced.read_channel(0, Channel::entropy_top)->data[0] ==
        source.read_channel(1, Channel::entropy_top)->data[15]);
  CHECK(sliced.read_second_pass(0)->chunk == std::vector<Span>{{0, 3}, {3, 11}, {3, 13}});
  // The documents begin before the rows kept.
  CHECK_FALSE(sliced.read_packets(0, PacketSet::wrapped));
  CHECK_FALSE(sliced.read_packets(0, PacketSet::bare));
}

TEST_CASE("packets whose documents are kept stay, with the heads and rows behind them that stay") {
  write_small_trace("source.h5");
  SliceOptions options;
  options.kv_heads = {1};
  options.first_row = 2;
  options.last_row = 16;
  slice("source.h5", "slice.h5", options);
  CHECK(verify("slice.h5").empty());
  const Reader source("source.h5");
  const Reader sliced("slice.h5");
  CHECK(sliced.read_packets(1, PacketSet::wrapped) == Packets{{{0, 4}, 2, 1}, {{5, 7}, 0, 3}});
  CHECK(sliced.read_packets(1, PacketSet::bare) == Packets{{{0, 4}}, {{4, 7}}});
  const PacketTensors all = source.read_packet_layer(1, 1, PacketSet::wrapped);
  const PacketTensors part = sliced.read_packet_layer(1, 1, PacketSet::wrapped);
  const auto is_end_of = [](const std::vector<float>& tensor, const std::vector<float>& whole) {
    return tensor.size() * 2 == whole.size() &&
           std::equal(tensor.begin(), tensor.end(), whole.end() - std::ssize(tensor));
  };
  CHECK(is_end_of(part.k, all.k));
  CHECK(is_end_of(part.v, all.v));
  CHECK(is_end_of(part.q, all.q));
  // 7 of 11 rows behind the documents, of the second head.
  REQUIRE(part.after_k.size() == 7 * 8);
  CHECK(std::equal(part.after_k.begin(), part.after_k.end(), all.after_k.begin() + 11 * 8));
  CHECK(std::equal(part.after_v.begin(), part.after_v.end(), all.after_v.begin() + 11 * 8));
  REQUIRE(part.after_q.size() == 2 * 7 * 8);
  CHECK(std::equal(part.after_q.begin(), part.after_q.begin() + 56, all.after_q.begin() + 2 * 11 * 8));
  CHECK(sliced.packet_contents(1, 3, PacketSet::bare).rows);
  options = {};
  options.last_row = 8;
  slice("source.h5", "slice.h5", options);
  CHECK_FALSE(Reader("slice.h5").read_packets(0, PacketSet::bare));
}

TEST_CASE("a slice of everything has the same contents, and impossible slices are refused") {
  write_small_trace("source.h5", {TensorType::bfloat16, false});
  slice("source.h5", "slice.h5", {});
  const Reader source("source.h5");
  const Reader sliced("slice.h5");
  for (std::size_t sequence = 0; sequence < 2; ++sequence) {
    for (const int layer : {1, 3}) {
      CHECK(sliced.read_layer(sequence, layer).q == source.read_layer(sequence, layer).q);
      CHECK(sliced.read_layer(sequence, layer).k == source.read_layer(sequence, layer).k);
    }
    CHECK(sliced.read_hidden(sequence, 1)->data == source.read_hidden(sequence, 1)->data);
    CHECK(sliced.read_second_pass_queries(sequence, 1)->data == source.read_second_pass_queries(sequence, 1)->data);
    CHECK(sliced.read_second_pass_keys(sequence, 1)->data == source.read_second_pass_keys(sequence, 1)->data);
  }
  const auto refused = [](const SliceOptions& options) {
    CHECK_THROWS_AS(slice("source.h5", "refused.h5", options), Error);
  };
  SliceOptions options;
  options.layers = {0};
  refused(options);
  options = {};
  options.kv_heads = {2};
  refused(options);
  options = {};
  options.first_row = 20;
  refused(options);
  options = {};
  options.sequences = {"7"};
  refused(options);
  options = {};
  options.first_row = 5;
  options.last_row = 1000;
  CHECK_THROWS_WITH(slice("source.h5", "refused.h5", options), Catch::Contains("0:20") && Catch::Contains("5:1000"));
  options.last_row = 20;
  CHECK_NOTHROW(slice("source.h5", "slice.h5", options));
  CHECK_FALSE(std::filesystem::exists("refused.h5"));
}

TEST_CASE("a range of rows lies inside the longest sequence and begins inside the shortest") {
  {
    Writer writer("uneven.h5", small_header());
    for (const std::int32_t length : {12, 20}) {
      writer.begin_sequence(small_sequence(length));
      const auto rows = static_cast<std::size_t>(length);
      writer.write_channel(Channel::token_ids, channel_values(Channel::token_ids, rows));
      for (const int layer : {1, 3}) {
        writer.append_kv(layer, pattern(rows * 16, layer), pattern(rows * 16, layer + 1));
        writer.append_q(layer, std::vector<std::int32_t>{length - 1}, pattern(32, layer));
      }
      writer.end_sequence();
    }
    writer.seal();
  }
  SliceOptions options;
  options.first_row = 5;
  options.last_row = 15;
  slice("uneven.h5", "slice.h5", options);
  const Reader sliced("slice.h5");
  CHECK(sliced.sequences()[0].length == 7);
  CHECK(sliced.sequences()[1].length == 10);
  options.last_row = 21;
  CHECK_THROWS_WITH(slice("uneven.h5", "refused.h5", options), Catch::Contains("0:20"));
  options.first_row = 12;
  options.last_row.reset();
  CHECK_THROWS_WITH(slice("uneven.h5", "refused.h5", options), Catch::Contains("below 12"));
  options.sequences = {"1"};
  CHECK_NOTHROW(slice("uneven.h5", "slice.h5", options));
}

TEST_CASE("a slice never replaces its input, under whatever name") {
  write_small_trace("source.h5", {TensorType::float16, true});
  const std::string before = Reader("source.h5").checksum();
  for (const char* name : {"hard.h5", "soft.h5"}) std::filesystem::remove(name);
  std::filesystem::create_hard_link("source.h5", "hard.h5");
  std::filesystem::create_symlink("source.h5", "soft.h5");
  SliceOptions options;
  options.layers = {3};
  for (const auto& [input, output] :
       {std::pair("source.h5", "source.h5"), std::pair("source.h5", "./source.h5"), std::pair("source.h5", "hard.h5"),
        std::pair("source.h5", "soft.h5"), std::pair("soft.h5", "source.h5")}) {
    INFO(input << " to " << output);
    try {
      slice(input, output, options);
      FAIL_CHECK("no error was thrown");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_argument);
      CHECK_THAT(error.what(), Catch::Contains(output) && Catch::Contains("to copy from"));
    }
  }
  CHECK(Reader("source.h5").checksum() == before);
  CHECK(std::filesystem::hard_link_count("source.h5") == 2);
  CHECK(std::filesystem::is_symlink("soft.h5"));
  // Another trace of the same contents may be replaced.
  std::filesystem::copy_file("source.h5", "copy.h5", std::filesystem::copy_options::overwrite_existing);
  slice("source.h5", "copy.h5", options);
  CHECK(Reader("copy.h5").header().layers == std::vector<int>{3});
}

TEST_CASE("a directory with a manifest of one shard can be sliced, one of several names them") {
  std::filesystem::remove_all("shards");
  std::filesystem::create_directory("shards");
  CHECK_THROWS_WITH(slice("shards", "slice.h5", {}), Catch::Contains("manifest.jsonl"));
  write_small_trace("shards/000000.h5");
  append_to_manifest("shards", describe_shard("shards/000000.h5"));
  SliceOptions options;
  options.layers = {3};
  slice("shards", "slice.h5", options);
  CHECK(Reader("slice.h5").read_layer(0, 3).k == Reader("shards/000000.h5").read_layer(0, 3).k);
  CHECK_THROWS_WITH(slice("shards", "shards/000000.h5", options), Catch::Contains("to copy from"));
  write_small_trace("shards/000001.h5");
  append_to_manifest("shards", describe_shard("shards/000001.h5"));
  CHECK_THROWS_WITH(slice("shards", "slice.h5", options),
                    Catch::Contains("holds 2") && Catch::Contains("shards/000000.h5"));
}

TEST_CASE("a synthetic trace has the attention structure it was asked for") {
  SynthOptions options;
  options.seed = GENERATE(std::uint64_t{0}, std::uint64_t{7});
  options.rope_layout = GENERATE(RopeLayout::half, RopeLayout::interleaved);
  options.all_queries = true;
  options.tensor_type = TensorType::float32;
  options.prompt = 400;
  options.decode = 20;
  options.hidden_states = true;
  synthesize("synthetic.h5", options);
  CHECK(verify("synthetic.h5").empty());
  const Reader reader("synthetic.h5");
  const SequenceInfo& info = reader.sequences()[0];
  const std::vector<Span>& needles = info.spans.at("evidence");
  REQUIRE(needles.size() == 2);
  for (const int layer : reader.header().layers) {
    const LayerTensors tensors = reader.read_layer(0, layer);
    double prompt_sinks = 0, prompt_needles = 0, prompt_recent = 0, decode_needles = 0, decode_sinks = 0,
           weakest_needle = 1e9;
    std::vector<double> column(400, 0.0);
    for (std::size_t head = 0; head < 8; ++head) {
      for (std::size_t place = 300; place < 420; ++place) {
        const std::vector<double> weights = attention(reader.header(), tensors, head, place);
        const bool decode = place >= 400;
        const auto row = static_cast<std::int32_t>(place);
        (decode ? decode_sinks : prompt_sinks) += mass(weights, {0, 4});
        for (const Span& span : needles) (decode ? decode_needles : prompt_needles) += mass(weights, span);
        if (!decode) prompt_recent += mass(weights, {row - 7, row + 1});
        for (std::size_t token = 0; token < 300; ++token) column[token] += decode ? 0 : weights[token];
        if (!decode) continue;
        for (const Span& span : needles) {
          weakest_needle = std::min(weakest_needle, mass(weights, span) / options.needle_width);
        }
      }
    }
    const double prompt_rows = 8 * 100;
    const double decode_rows = 8 * 20;
    CHECK(prompt_sinks / prompt_rows > 0.4);    // 4 tokens of about 350
    CHECK(prompt_recent / prompt_rows > 0.02);  // less than 8 / 350 if recency did nothing, after the sinks' share
    CHECK(prompt_needles / prompt_rows < 0.03);
    CHECK(decode_needles / decode_rows > 0.4);
    CHECK(weakest_needle > 0.002);              // no head misses one: a uniform share is 0.0024, noise included
    CHECK(decode_sinks / decode_rows > 0.012);  // a uniform share is 0.0098
    // Heavy hitters: more columns than the sinks stand out in accumulated attention.
    std::vector<double> sorted = column;
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted[sorted.size() / 2];
    CHECK(std::count_if(column.begin(), column.end(), [&](double value) { return value > 8 * median; }) >= 4 + 4);
  }
}

TEST_CASE("a synthetic second pass looks at what it repeats, and packets are the context read alone") {
  SynthOptions options;
  options.tensor_type = TensorType::float32;
  options.prompt = 120;
  options.decode = 4;
  options.second_pass = true;
  options.documents = 3;
  options.packet_noise = 0;
  options.rope_layout = GENERATE(RopeLayout::half, RopeLayout::interleaved);
  synthesize("passes.h5", options);
  CHECK(verify("passes.h5").empty());
  const Reader reader("passes.h5");
  CHECK(reader.read_second_pass(0)->chunk == std::vector<Span>(120, Span{0, 120}));
  const Packets bare = reader.read_packets(0, PacketSet::bare).value();
  CHECK(bare == Packets{{{4, 42}}, {{42, 80}}, {{80, 119}}});
  CHECK(reader.read_packets(0, PacketSet::wrapped)->front() == Packet{{4, 42}, 4, 4});
  CHECK(reader.sequences()[0].spans.at("document").size() == 3);
  const LayerTensors tensors = reader.read_layer(0, 1);
  const PacketTensors packets = reader.read_packet_layer(0, 1, PacketSet::bare);
  // Norms of keys do not turn; values are the same.
  const auto norm = [](const float* row) {
    double sum = 0;
    for (int i = 0; i < 64; ++i) sum += static_cast<double>(row[i]) * static_cast<double>(row[i]);
    return sum;
  };
  for (std::size_t row = 0; row < 115; ++row) {
    CHECK(norm(&packets.k[row * 64]) == Approx(norm(&tensors.k[(row + 4) * 64])).epsilon(1e-4));
    CHECK(packets.v[row * 64] == tensors.v[(row + 4) * 64]);
  }
  CHECK(packets.k[38 * 64] != tensors.k[42 * 64]);
  // Over rows, the token repeated gets more than the mean of those around it.
  const Tensor queries = *reader.read_second_pass_queries(0, 1);
  double own = 0, others = 0;
  for (std::size_t row = 20; row < 100; ++row) {
    for (std::size_t token = row - 10; token <= row + 10; ++token) {
      double product = 0;
      for (std::size_t i = 0; i < 64; ++i) {
        product += static_cast<double>(queries.data[row * 64 + i]) * static_cast<double>(tensors.k[token * 64 + i]);
      }
      (token == row ? own : others) += product / (token == row ? 80 : 1600);
    }
  }
  CHECK(own / 8 > others / 8 + 0.5);
  options.documents = 116;
  CHECK_THROWS_WITH(synthesize("refused.h5", options), Catch::Contains("documents"));
}

TEST_CASE("distractors come near the needles without being evidence") {
  SynthOptions options;
  options.tensor_type = TensorType::float32;
  options.noise_logit = 0;
  options.distractors = 6;
  synthesize("near.h5", options);
  const Reader reader("near.h5");
  const LayerTensors tensors = reader.read_layer(0, 0);
  const std::vector<double> weights = attention(reader.header(), tensors, 0, tensors.q_rows.size() - 1);
  const std::vector<Span>& needles = reader.sequences()[0].spans.at("evidence");
  const auto is_evidence = [&](std::size_t token) {
    return std::any_of(needles.begin(), needles.end(), [token](const Span& span) {
      return span.first <= static_cast<std::int32_t>(token) && static_cast<std::int32_t>(token) < span.last;
    });
  };
  double needle = 0;
  for (const Span& span : needles) needle += mass(weights, span) / (2.0 * options.needle_width);
  int near = 0;
  for (std::size_t token = 0; token < 512; ++token) {
    near += !is_evidence(token) && std::abs(std::log(weights[token] / needle)) < options.distractor_gap + 1.5;
  }
  CHECK(near >= 6);
  CHECK(near <= 10);
}

TEST_CASE("a seed decides everything, and bad options are named") {
  SynthOptions options;
  options.prompt = 100;
  options.needles = 1;
  synthesize("one.h5", options);
  synthesize("same.h5", options);
  CHECK(Reader("one.h5").checksum() == Reader("same.h5").checksum());
  options.seed = 1;
  synthesize("other.h5", options);
  CHECK(Reader("one.h5").read_layer(0, 0).k != Reader("other.h5").read_layer(0, 0).k);
  CHECK(Reader("one.h5").read_layer(0, 0).q_rows.front() == 36);
  options.kv_heads = 3;
  CHECK_THROWS_WITH(synthesize("refused.h5", options), Catch::Contains("heads") && Catch::Contains("multiple"));
  options = {};
  options.prompt = 20;
  CHECK_THROWS_WITH(synthesize("refused.h5", options), Catch::Contains("prompt"));
}
