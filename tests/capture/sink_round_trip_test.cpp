// Does the capture sink store exactly the rows that an engine pushes, whatever their type, strides and batching?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/capture_engine.h"
#include "traces/capture/token_statistics.h"
#include "traces/capture/vector_measures.h"
#include "traces/manifest.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using namespace evictsim::traces::capture;
using namespace evictsim::traces::capture::test;
namespace fs = std::filesystem;

namespace {

std::string fresh(const std::string& name) {
  fs::remove_all(name);
  return name;
}

/// Every fault of every shard, as lines.
std::string faults(const std::string& directory) {
  std::string lines;
  for (const Fault& fault : verify(directory)) lines += fault.line + "\n";
  return lines;
}

/// The rows of a layer [heads, rows, width] against what the engine pushed of `heads`.
void check_rows(const std::vector<float>& stored, const std::string& request, int role, int layer,
                const std::vector<std::int32_t>& rows, const std::vector<int>& heads, int width) {
  REQUIRE(stored.size() == heads.size() * rows.size() * static_cast<std::size_t>(width));
  std::size_t wrong = 0, place = 0;
  for (const int head : heads) {
    for (const std::int32_t row : rows) {
      for (int i = 0; i < width; ++i) {
        if (stored[place++] != engine_value(request, role, layer, row, std::int64_t{head} * width + i)) ++wrong;
      }
    }
  }
  CHECK(wrong == 0);
}

std::vector<std::int32_t> up_to(std::int32_t count) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int32_t>(i);
  return rows;
}

void check_sequence(const Engine& engine, const Reader& reader, std::size_t index, const std::vector<int>& query_heads,
                    const std::vector<int>& kv_heads) {
  const SequenceInfo& info = reader.sequences()[index];
  const std::string request = info.request_id.value();
  INFO(request);
  CHECK(info.length == engine.lengths.at(request));
  const Tensor tokens = reader.read_channel(index, Channel::token_ids).value();
  for (std::int32_t i = 0; i < info.length; ++i) {
    REQUIRE(tokens.data[static_cast<std::size_t>(i)] == static_cast<float>(engine.token(request, i)));
  }
  for (const int layer : reader.header().layers) {
    INFO(layer);
    const LayerTensors tensors = reader.read_layer(index, layer);
    const std::vector<std::int32_t> rows = up_to(info.length);
    check_rows(tensors.k, request, EVICTSIM_CAPTURE_K, layer, rows, kv_heads, engine.head_dim);
    check_rows(tensors.v, request, EVICTSIM_CAPTURE_V, layer, rows, kv_heads, engine.head_dim);
    check_rows(tensors.q, request, EVICTSIM_CAPTURE_Q, layer, tensors.q_rows, query_heads, engine.head_dim);
  }
}

}  // namespace

TEST_CASE("rows of interleaved requests come back from every type and layout") {
  Engine engine;
  engine.element = GENERATE(Element::f32, Element::f16, Element::bf16, Element::e4m3, Element::e5m2);
  engine.layout = GENERATE(Layout::compact, Layout::no_strides, Layout::heads_first, Layout::offset);
  // Every pair of a pushed and a stored type, in some layout.
  const std::array<std::string, 3> dtypes = {"float16", "bfloat16", "float32"};
  const std::string dtype =
      dtypes[(static_cast<std::size_t>(engine.element) + static_cast<std::size_t>(engine.layout)) % 3];
  const std::string directory = fresh("interleaved");
  REQUIRE(engine.open(directory, "dtype=" + dtype) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  // A prompt in two chunks beside another request's prompt and decode steps, with padding between them.
  CHECK(engine.step({{"first", 5, 9}, {"other one", 3, 3}}, 2) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"other one", 1, 3}, {"first", 4, 9}}, 1) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"first", 1, 9}, {"other one", 1, 0}}) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(engine.capture, "other one") == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"first", 1, 9}}) == EVICTSIM_CAPTURE_OK);
  const evictsim_capture_counters counters = engine.counters();
  CHECK(counters.rows == 16);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);

  CHECK(faults(directory) == "");
  const std::vector<Reader> readers = open_traces({directory});
  REQUIRE(readers.size() == 1);
  REQUIRE(readers[0].sequences().size() == 2);
  CHECK(readers[0].sequences()[0].prompt_length == 9);
  CHECK(readers[0].sequences()[1].prompt_length == 3);
  CHECK(readers[0].header().dropped_rows == 0);
  CHECK(to_string(readers[0].stored_type(0, 0)) == dtype);
  for (const std::size_t index : {0U, 1U}) check_sequence(engine, readers[0], index, {0, 1, 2, 3}, {0, 1});
}

TEST_CASE("a long request fills chunks and may be stored uncompressed") {
  Engine engine;
  engine.head_dim = 64;
  engine.layers = 2;
  const bool compress = GENERATE(true, false);
  const std::string directory = fresh("chunks");
  REQUIRE(engine.open(directory, compress ? "threads=3" : "threads=3\ncompress=0") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  // A key row is 256 bytes, so a chunk has 2048 rows; a query row twice that.
  CHECK(engine.run("long", 5000, 3) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  check_sequence(engine, open_traces({directory}).at(0), 0, {0, 1, 2, 3}, {0, 1});
}

TEST_CASE("the room of requests that are given up is used again, and the checksum of the shard is that of its bytes") {
  Engine engine;
  engine.head_dim = 64;
  engine.layers = 2;
  const std::string compress = GENERATE("0", "1");
  const std::string directory = fresh("given-up");
  REQUIRE(engine.open(directory, "threads=3\ncompress=" + compress) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  for (int i = 0; i < 5; ++i) {
    const std::string lost = "lost-" + std::to_string(i);
    CHECK(engine.step({{lost, 3000, 4000}}) == EVICTSIM_CAPTURE_OK);
    CHECK(evictsim_capture_finish_request(engine.capture, lost.c_str()) == EVICTSIM_CAPTURE_OK);
    CHECK(engine.run("kept-" + std::to_string(i), 2500, 2) == EVICTSIM_CAPTURE_OK);
  }
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  REQUIRE(reader.sequences().size() == 5);
  CHECK(reader.header().dropped_rows == 5 * 3000);
  for (std::size_t i = 0; i < 5; ++i) check_sequence(engine, reader, i, {0, 1, 2, 3}, {0, 1});
}

TEST_CASE("layers, heads and rows of q are sampled") {
  Engine engine;
  const std::string directory = fresh("sampled");
  REQUIRE(engine.open(directory, "layers=0,2\nkv_heads=1\nq_rows=window:3+decode+stride:8\nq_all_layers=2") ==
          EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  MadeTensor w_o(engine.hidden, 0, engine.query_heads * engine.head_dim, Element::f32, Layout::compact,
                 [](std::int64_t row, std::int64_t column) { return static_cast<float>(row * 32 + column); });
  for (int layer = 0; layer < 3; ++layer) {
    CHECK(evictsim_capture_weight(engine.capture, w_o.get(), EVICTSIM_CAPTURE_W_O, layer) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(engine.run("r", 20, 2) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  CHECK(reader.header().layers == std::vector<int>{0, 2});
  CHECK(reader.header().num_kv_heads == 1);
  CHECK(reader.header().num_query_heads == 2);
  CHECK(reader.query_rows(0, 0) == std::vector<std::int32_t>{0, 8, 16, 17, 18, 19, 20, 21});
  CHECK(reader.query_rows(0, 2) == up_to(22));
  check_sequence(engine, reader, 0, {2, 3}, {1});
  const Tensor kept = reader.read_weight(2, LayerWeight::w_o).value();
  CHECK(kept.shape == std::vector<std::size_t>{16, 16});
  CHECK(kept.data[0] == 16);
  CHECK(kept.data[17] == 32 + 17);
}

TEST_CASE("what a model says per layer is stored of the captured ones") {
  Engine engine;
  const std::string directory = fresh("per-layer");
  REQUIRE(engine.open(directory, "layers=0,2") == EVICTSIM_CAPTURE_OK);
  const std::string text = engine.model_text() +
                           "sliding_window=4,5,0\nsensitivity=0.25,1e-3,2\nsensitivity_method=halves, at random\n"
                           "sensitivity_rows=64\n";
  REQUIRE(evictsim_capture_model(engine.capture, text.c_str()) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("r", 7, 2) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  CHECK(reader.header().sliding_window == std::vector<int>{4, 0});
  CHECK(reader.header().sensitivity == std::vector<double>{0.25, 2});
  CHECK(reader.header().sensitivity_attributes ==
        std::map<std::string, std::string>{{"method", "halves, at random"}, {"rows", "64"}});
}

TEST_CASE("a model without RoPE rotates nothing") {
  Engine engine;
  const std::string directory = fresh("no-rope");
  REQUIRE(engine.open(directory, "") == EVICTSIM_CAPTURE_OK);
  std::string text = engine.model_text();
  const std::string rope = "rope_layout=half\nrope_theta=10000\n";
  text.replace(text.find(rope), rope.size(), "rope_layout=none\n");
  REQUIRE(evictsim_capture_model(engine.capture, text.c_str()) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("r", 7, 2) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  CHECK(reader.header().rotary_dim == 0);
  CHECK(reader.header().inv_freq.empty());
}

TEST_CASE("a trace may hold no queries") {
  Engine engine;
  const std::string directory = fresh("no-queries");
  REQUIRE(engine.open(directory, "q_rows=none\nchannels=none") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("r", 7, 2) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  CHECK(reader.query_rows(0, 1).empty());
  check_sequence(engine, reader, 0, {0, 1, 2, 3}, {0, 1});
}

TEST_CASE("x and the channels agree with their definitions") {
  Engine engine;
  engine.with_hidden = engine.with_logits = true;
  const std::string directory = fresh("channels");
  REQUIRE(engine.open(directory, "x=1\nchannels=all\ndtype=float32\nlayers=0-1") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("request", 6, 3) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  const auto row = [&](int role, int layer, std::int32_t token, int width) {
    std::vector<float> values(static_cast<std::size_t>(width));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = engine_value("request", role, layer, token, static_cast<std::int64_t>(i));
    }
    return values;
  };
  const auto channel = [&](Channel wanted, std::size_t place) {
    return static_cast<double>(reader.read_channel(0, wanted).value().data.at(place));
  };
  DistributionReducer reducer;
  for (std::int32_t token = 0; token < 9; ++token) {
    const auto place = static_cast<std::size_t>(token);
    const std::vector<float> logits = row(EVICTSIM_CAPTURE_LOGITS, 0, token, engine.vocab);
    const Distribution distribution = reducer.reduce(logits);
    CHECK(channel(Channel::entropy, place) == Approx(distribution.entropy));
    CHECK(channel(Channel::entropy_top, 3 * place) == Approx(distribution.entropy_top[0]));
    if (token < 8) {
      const auto next = static_cast<std::size_t>(engine.token("request", token + 1));
      CHECK(channel(Channel::logprob, place + 1) ==
            Approx(static_cast<double>(logits[next]) - distribution.log_normaliser));
    }
    const std::vector<float> final = row(EVICTSIM_CAPTURE_X, 3, token, engine.hidden);
    CHECK(channel(Channel::final_norm_input, place) == Approx(norm(final)));
    for (int layer = 0; layer < 2; ++layer) {
      const std::size_t at = static_cast<std::size_t>(layer) * 9 + place;
      const std::vector<float> input = row(EVICTSIM_CAPTURE_X, layer, token, engine.hidden);
      const std::vector<float> output = row(EVICTSIM_CAPTURE_X, layer + 1, token, engine.hidden);
      CHECK(channel(Channel::residual_norm, at) == Approx(norm(input)));
      CHECK(channel(Channel::cos_final, at) == Approx(cosine(output, final)).margin(1e-6));
      CHECK(channel(Channel::cos_attention, at) ==
            Approx(cosine(input, row(EVICTSIM_CAPTURE_AFTER_ATTENTION, layer, token, engine.hidden))).margin(1e-6));
      const double step =
          token == 0 ? 0 : distance(output, row(EVICTSIM_CAPTURE_X, layer + 1, token - 1, engine.hidden));
      CHECK(channel(Channel::step_norm, at) == Approx(step));
      const Tensor x = reader.read_hidden(0, layer).value();
      CHECK(std::equal(input.begin(), input.end(), x.data.begin() + token * engine.hidden));
    }
  }
  CHECK(std::isnan(channel(Channel::logprob, 0)));
}

TEST_CASE("a channel that misses rows is left out") {
  Engine engine;
  const std::string directory = fresh("gaps");
  REQUIRE(engine.open(directory, "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"r", 4, 4}}) == EVICTSIM_CAPTURE_OK);
  engine.with_logits = true;
  CHECK(engine.step({{"r", 1, 4}}) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  CHECK_FALSE(reader.has_channel(0, Channel::entropy));
  CHECK_FALSE(reader.has_channel(0, Channel::residual_norm));
}

TEST_CASE("what was said stays private unless asked for") {
  Engine engine;
  const std::string key = GENERATE("", "a key");
  const bool with_text = GENERATE(true, false);
  std::vector<std::vector<float>> stored;
  for (const char* directory : {"private-1", "private-2"}) {
    fresh(directory);
    engine.lengths.clear();
    REQUIRE(engine.open(directory, std::string("token_ids=hashed\n") + (with_text ? "store_text=1\n" : "") +
                                       (key.empty() ? "" : "token_key=" + key)) == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_describe_request(engine.capture, "r", "task=needle\nspan=evidence=tokens:2:5",
                                              "the words") == EVICTSIM_CAPTURE_OK);
    // A zero, the two halves of a character, nothing; the vocabulary's last token has no text.
    std::vector<std::string> words = {std::string("\0a", 2), "\xC3", "\xA9", ""};
    while (words.size() < 39) words.push_back(" word " + std::to_string(words.size()));
    std::string bytes;
    std::vector<std::int64_t> ends;
    for (const std::string& word : words) ends.push_back(std::ssize(bytes += word));
    REQUIRE(evictsim_capture_vocabulary(engine.capture, bytes.c_str(), ends.data(), ends.size()) ==
            EVICTSIM_CAPTURE_OK);
    CHECK(engine.run("r", 60, 0) == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
    CHECK(faults(directory) == "");
    const Reader reader = std::move(open_traces({directory}).at(0));
    const SequenceInfo& info = reader.sequences()[0];
    REQUIRE(info.token_texts.has_value() == with_text);
    words.emplace_back();
    for (std::int32_t i = 0; with_text && i < 60; ++i) {
      CHECK(info.token_texts->at(static_cast<std::size_t>(i)) == words[static_cast<std::size_t>(engine.token("r", i))]);
    }
    CHECK(info.task == "needle");
    CHECK(info.spans.at("evidence") == std::vector<Span>{{2, 5}});
    CHECK(info.text.has_value() == with_text);
    CHECK(reader.header().extra.at("capture_token_ids") == "hashed");
    stored.push_back(reader.read_channel(0, Channel::token_ids).value().data);
  }
  // A permutation: the 40 tokens of the vocabulary, which all occur, stay 40 tokens, and token t + 40 is token t again.
  CHECK(std::set<float>(stored[0].begin(), stored[0].end()).size() == 40);
  for (std::size_t i = 0; i + 40 < stored[0].size(); ++i) CHECK(stored[0][i] == stored[0][i + 40]);
  std::size_t unchanged = 0;
  for (std::int32_t i = 0; i < 40; ++i) {
    if (stored[0][static_cast<std::size_t>(i)] == static_cast<float>(engine.token("r", i))) ++unchanged;
  }
  CHECK(unchanged < 20);
  CHECK((stored[0] == stored[1]) == !key.empty());
}

TEST_CASE("shards rotate and a later capture goes on") {
  const std::string directory = fresh("rotating");
  std::set<std::string> requests;
  for (int round = 0; round < 2; ++round) {
    Engine engine;
    REQUIRE(engine.open(directory, "shard_bytes=1000\nthreads=2") == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    MadeTensor weight(engine.hidden, 0, 32, Element::bf16, Layout::compact,
                      [](std::int64_t, std::int64_t) { return 1.0F; });
    CHECK(evictsim_capture_weight(engine.capture, weight.get(), EVICTSIM_CAPTURE_W_O, 1) == EVICTSIM_CAPTURE_OK);
    for (int i = 0; i < 3; ++i) {
      const std::string name = std::to_string(round) + "-" + std::to_string(i);
      CHECK(engine.run(name, 10, 2) == EVICTSIM_CAPTURE_OK);
      requests.insert(name);
      CHECK(evictsim_capture_flush(engine.capture) == EVICTSIM_CAPTURE_OK);
      CHECK(engine.counters().shards == static_cast<std::uint64_t>(i + 1));
      CHECK(verify(directory).empty());
    }
    REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  }
  CHECK(faults(directory) == "");
  const std::vector<Reader> readers = open_traces({directory});
  CHECK(readers.size() == 6);
  std::set<std::string> found;
  for (const Reader& reader : readers) {
    CHECK(reader.read_weight(1, LayerWeight::w_o).value().data[5] == 1);
    for (const SequenceInfo& info : reader.sequences()) found.insert(info.request_id.value());
  }
  CHECK(found == requests);
}

TEST_CASE("a shard is sealed when it is large enough or old enough, and nobody asks for it") {
  Engine engine;
  const std::string directory = fresh("rotating by itself");
  const auto comes = [](const auto& condition) {  // a minute is as good as never
    for (int i = 0; i < 6000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  };
  SECTION("bytes") {
    REQUIRE(engine.open(directory, "shard_bytes=1000") == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    for (const char* request : {"a", "b"}) CHECK(engine.run(request, 20, 2) == EVICTSIM_CAPTURE_OK);
    CHECK(comes([&] { return engine.counters().written_bytes >= 1000; }));
    CHECK(engine.step({{"c", 20, 20}}) == EVICTSIM_CAPTURE_OK);  // begins the next one
  }
  SECTION("seconds") {
    REQUIRE(engine.open(directory, "shard_seconds=1") == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    CHECK(engine.run("a", 20, 2) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(comes([&] { return engine.counters().shards >= 1; }));
  CHECK(faults(directory) == "");
  CHECK(open_traces({directory}).at(0).sequences()[0].request_id == "a");
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
}

TEST_CASE("requests that are not sampled cost their rows and nothing else") {
  Engine engine;
  const auto [options, recorded] = GENERATE(table<std::string, std::size_t>({
      {"every=3", 2},             // requests 0 and 3
      {"bytes_per_second=1", 1},  // the first one spends what there is
      {"memory=1", 1},            // one is always taken
  }));
  const std::string directory = fresh("skipped");
  REQUIRE(engine.open(directory, options) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  for (const char* request : {"a", "b", "c", "d"}) CHECK(engine.step({{request, 5, 5}}) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.counters().skipped_requests == 4 - recorded);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  CHECK(open_traces({directory}).at(0).sequences().size() == recorded);
}

TEST_CASE("a preempted request is recorded once, and a lost prefix is noticed") {
  Engine engine;
  const std::string directory = fresh("preempted");
  REQUIRE(engine.open(directory, "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"again", 6, 6}}) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"again", 1, 6}}) == EVICTSIM_CAPTURE_OK);
  engine.lengths["again"] = 0;
  CHECK(engine.step({{"again", 8, 6}}) == EVICTSIM_CAPTURE_OK);
  engine.lengths["prefix"] = 4;
  CHECK(engine.step({{"prefix", 2, 6}}) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"hole", 3, 3}}) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"hole", 1, 3}}) == EVICTSIM_CAPTURE_OK);
  ++engine.lengths["hole"];
  CHECK(engine.step({{"hole", 1, 3}}) == EVICTSIM_CAPTURE_OK);
  for (const char* request : {"again", "prefix", "hole"}) {
    CHECK(evictsim_capture_finish_request(engine.capture, request) == EVICTSIM_CAPTURE_OK);
  }
  const evictsim_capture_counters counters = engine.counters();
  CHECK(counters.rows == 8 + 2 + 5);
  CHECK(counters.dropped_rows == 2 + 1);
  CHECK(counters.dropped_requests == 1);
  CHECK(counters.requests == 2);
  CHECK(std::string(evictsim_capture_last_loss(engine.capture)).find("request hole from token 4") == 0);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults(directory) == "");
  const Reader reader = std::move(open_traces({directory}).at(0));
  REQUIRE(reader.sequences().size() == 2);
  CHECK(reader.header().dropped_rows == 3);
  check_sequence(engine, reader, 0, {0, 1, 2, 3}, {0, 1});
  CHECK(reader.sequences()[1].length == 4);
}
