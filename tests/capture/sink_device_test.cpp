// Do device tensors reach the trace through the C interface exactly as host tensors do, eagerly and out of CUDA graphs?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/capture_engine.h"
#include "tests/support/copy_engine_run.h"
#include "traces/capture/token_statistics.h"
#include "traces/capture/vector_measures.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::capture::test;
using tests::CudaDouble;

namespace {

/// The device of the running test.
std::shared_ptr<CudaDouble>& device() {
  static std::shared_ptr<CudaDouble> instance;
  return instance;
}

}  // namespace

namespace evictsim::traces::capture {

// Takes the place of the library's own, whose archive member is then left out.
std::unique_ptr<DeviceCopier> make_device_copier(RowReceiver& receiver, const DeviceOptions& options) {
  CopyEngineOptions settings;
  static_cast<DeviceOptions&>(settings) = options;
  settings.pending = 8;
  return std::make_unique<CopyEngine>(device(), receiver, settings);
}

}  // namespace evictsim::traces::capture

namespace {

std::string fresh(const std::string& name) {
  std::filesystem::remove_all(name);
  return name;
}

/// Rows of a second pass over the request "first", behind one of padding.
void read_again(Engine& engine, std::int32_t first, std::int32_t count) {
  const evictsim_capture_rows range{"first", 1, count, first, 0, nullptr};
  CHECK(evictsim_capture_begin_pass(engine.capture, EVICTSIM_CAPTURE_SECOND_PASS, &range, 1) == EVICTSIM_CAPTURE_OK);
  for (int layer = 0; layer < engine.layers; ++layer) {
    for (const int role : {EVICTSIM_CAPTURE_Q, EVICTSIM_CAPTURE_K}) {
      auto tensor = std::make_unique<MadeTensor>(
          count + 1, role == EVICTSIM_CAPTURE_Q ? engine.query_heads : engine.kv_heads, engine.head_dim, Element::bf16,
          Layout::heads_first,
          [&](std::int64_t row, std::int64_t i) { return engine_value("again", role, layer, first + row, i); });
      if (engine.stream != nullptr) tensor->get()->device = {kDLCUDA, 0};
      CHECK(evictsim_capture_push(engine.capture, tensor->get(), role, layer, engine.stream) == EVICTSIM_CAPTURE_OK);
      engine.kept.push_back(std::move(tensor));
    }
  }
  CHECK(evictsim_capture_end_step(engine.capture) == EVICTSIM_CAPTURE_OK);
}

/// The same steps, from host memory or from the device.
void capture_steps(const std::string& directory, const std::string& options, void* stream) {
  Engine engine;
  engine.element = Element::bf16;
  engine.layout = Layout::heads_first;
  engine.with_hidden = true;
  engine.with_logits = true;
  engine.stream = stream;
  REQUIRE(engine.open(directory, options) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  const std::vector<std::int32_t> positions = {9, 10, 11, 9}, chunks = {0, 5, 0, 5, 0, 5, 5, 9};
  CHECK(evictsim_capture_describe_second_pass(engine.capture, "first", positions.data(), chunks.data(), 4) ==
        EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"first", 5, 9}, {"other one", 3, 3}}, 2) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"other one", 1, 3}, {"first", 4, 9}}, 1) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(engine.capture, "other one") == EVICTSIM_CAPTURE_OK);
  for (const std::int32_t first : {0, 3}) read_again(engine, first, first == 0 ? 3 : 1);
  for (int step = 0; step < 6; ++step) CHECK(engine.step({{"first", 1, 9}}) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_flush(engine.capture) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
}

const Reader& only(const std::vector<Reader>& readers) {
  REQUIRE(readers.size() == 1);
  return readers[0];
}

/// Of logprob a device keeps the part that it can: nothing.
constexpr std::array device_channels = {Channel::entropy,         Channel::entropy_top,   Channel::residual_norm,
                                        Channel::step_norm,       Channel::cos_attention, Channel::cos_final,
                                        Channel::final_norm_input};

/// Channels of one sequence, which sums in another order let differ by a rounding; how many there are.
std::size_t compare_channels(const Reader& host, std::size_t host_index, const Reader& ours, std::size_t our_index,
                             bool all = true) {
  std::size_t compared = 0;
  for (const Channel channel : device_channels) {
    INFO(to_string(channel));
    const auto expected = host.read_channel(host_index, channel), found = ours.read_channel(our_index, channel);
    if (all || !expected) REQUIRE(found.has_value() == expected.has_value());
    if (!found) continue;
    ++compared;
    REQUIRE(found->data.size() == expected->data.size());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < found->data.size(); ++i) {
      wrong += found->data[i] == Approx(expected->data[i]).epsilon(1e-6).margin(1e-7) ? 0U : 1U;
    }
    CHECK(wrong == 0);
  }
  return compared;
}

/// Serves made-up requests: chunks of prompts and decode steps side by side in changing batches, some given up.
void serve(const std::string& directory, const std::string& options, void* stream, std::uint64_t seed) {
  Engine engine;
  engine.layers = 4;
  engine.element = Element::f16;
  engine.with_hidden = true;
  engine.stream = stream;
  REQUIRE(engine.open(directory, "channels=all\n" + options) == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  struct Running {
    std::string name;
    std::int32_t prompt, total;
  };
  std::mt19937_64 random(seed);
  std::vector<Running> running;
  int begun = 0;
  while (begun < 14 || !running.empty()) {
    while (begun < 14 && running.size() < 5 && random() % 2 == 0) {
      const auto prompt = static_cast<std::int32_t>(1 + random() % 9);
      running.push_back({"r" + std::to_string(begun++), prompt, prompt + static_cast<std::int32_t>(random() % 6)});
    }
    std::vector<Engine::Part> parts;
    for (const Running& request : running) {
      if (random() % 4 == 0) continue;
      const std::int32_t done = engine.lengths[request.name];
      const std::int32_t chunk = static_cast<std::int32_t>(1 + random() % 4);
      parts.push_back(
          {request.name, done < request.prompt ? std::min(chunk, request.prompt - done) : 1, request.prompt});
    }
    std::shuffle(parts.begin(), parts.end(), random);
    REQUIRE(engine.step(parts, static_cast<std::int64_t>(random() % 2)) == EVICTSIM_CAPTURE_OK);
    std::erase_if(running, [&](const Running& request) {
      const bool discard = random() % 16 == 0;
      const std::int32_t done = engine.lengths[request.name];
      if (!discard && done < request.total) return false;
      CHECK((discard ? evictsim_capture_discard_request(engine.capture, request.name.c_str())
                     : evictsim_capture_finish_request(engine.capture, request.name.c_str())) == EVICTSIM_CAPTURE_OK);
      return true;
    });
  }
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
}

/// The sequences of `ours` beside those of `host`; how many channels were there.
std::size_t compare_served(const Reader& host, const Reader& ours, bool all) {
  REQUIRE(ours.sequences().size() == host.sequences().size());
  std::size_t compared = 0;
  for (std::size_t index = 0; index < ours.sequences().size(); ++index) {
    const SequenceInfo& own = ours.sequences()[index];
    INFO(*own.request_id);
    const auto other = std::find_if(host.sequences().begin(), host.sequences().end(),
                                    [&](const SequenceInfo& info) { return info.request_id == own.request_id; });
    REQUIRE(other != host.sequences().end());
    CHECK(own.length == other->length);
    compared += compare_channels(host, static_cast<std::size_t>(other - host.sequences().begin()), ours, index, all);
  }
  return compared;
}

}  // namespace

TEST_CASE("a capture of device tensors is the capture of the same tensors in host memory") {
  const std::string options =
      "channels=all\n" + GENERATE(as<std::string>(), "x=1\ndtype=float32", "kv_heads=1\nq_rows=window:3+decode",
                                  "layers=0,2\ndtype=bfloat16");
  capture_steps(fresh("host"), options, nullptr);
  device() = std::make_shared<CudaDouble>(CudaDouble::Behaviour{.seed = 21, .pieces = 3});
  capture_steps(fresh("device"), options + "\ndevice_ring=4096", device()->engine_stream());
  CHECK(device()->leaks() == 0);
  CHECK(device()->breaches() == std::vector<std::string>{});
  CHECK(verify("device").empty());
  const std::vector<Reader> host_readers = open_traces({"host"}), device_readers = open_traces({"device"});
  const Reader& host = only(host_readers);
  const Reader& ours = only(device_readers);
  REQUIRE(ours.sequences().size() == 2);
  for (std::size_t index = 0; index < 2; ++index) {
    const auto other = static_cast<std::size_t>(
        std::find_if(host.sequences().begin(), host.sequences().end(),
                     [&](const SequenceInfo& info) { return info.request_id == ours.sequences()[index].request_id; }) -
        host.sequences().begin());
    REQUIRE(other < host.sequences().size());
    CHECK(ours.sequences()[index].length == host.sequences()[other].length);
    for (const int layer : host.header().layers) {
      const LayerTensors expected = host.read_layer(other, layer), found = ours.read_layer(index, layer);
      CHECK(found.k == expected.k);
      CHECK(found.v == expected.v);
      CHECK(found.q == expected.q);
      CHECK(found.q_rows == expected.q_rows);
      REQUIRE(ours.read_second_pass(index).has_value() == host.read_second_pass(other).has_value());
      if (!ours.read_second_pass(index)) continue;
      CHECK(ours.read_second_pass_queries(index, layer)->data == host.read_second_pass_queries(other, layer)->data);
      CHECK(ours.read_second_pass_keys(index, layer)->data == host.read_second_pass_keys(other, layer)->data);
    }
    CHECK(ours.read_second_pass(index).has_value() == (ours.sequences()[index].request_id == "first"));
    compare_channels(host, other, ours, index);
  }
}

TEST_CASE("steps and cosines of requests served side by side are those of host tensors") {
  const std::uint64_t seed = static_cast<std::uint64_t>(GENERATE(1, 2));
  const std::string options = GENERATE(as<std::string>(), "x=1", "layers=1-2", "layers=3");
  serve(fresh("served-host"), options, nullptr, seed);
  device() = std::make_shared<CudaDouble>(CudaDouble::Behaviour{.seed = seed, .eagerness = 2, .pieces = 2});
  serve(fresh("served"), options + "\ndevice_ring=16KiB\ndevice_history=64KiB", device()->engine_stream(), seed);
  CHECK(device()->leaks() == 0);
  CHECK(device()->breaches() == std::vector<std::string>{});
  CHECK(verify("served").empty());
  const std::vector<Reader> host = open_traces({"served-host"}), ours = open_traces({"served"});
  CHECK(compare_served(only(host), only(ours), true) >= 4 * only(ours).sequences().size());
  for (std::size_t index = 0; index < ours[0].sequences().size(); ++index) {
    for (const Channel channel : {Channel::step_norm, Channel::cos_attention, Channel::cos_final}) {
      CHECK(ours[0].has_channel(index, channel));
    }
  }
}

TEST_CASE("with less room than it takes, channels are left out, and those that are there are right") {
  const std::uint64_t seed = 1;
  serve(fresh("cramped-host"), "", nullptr, seed);
  const std::vector<Reader> host = open_traces({"cramped-host"});
  std::size_t before = 0;
  // Rows take 64 bytes: none, one, some, enough of them.
  for (const char* const room : {"0", "64", "700", "1500", "64KiB"}) {
    INFO(room);
    device() = std::make_shared<CudaDouble>(CudaDouble::Behaviour{.seed = seed, .eagerness = 2, .pieces = 2});
    serve(fresh("cramped"), std::string("device_ring=16KiB\ndevice_history=") + room, device()->engine_stream(), seed);
    CHECK(device()->leaks() == 0);
    CHECK(device()->breaches() == std::vector<std::string>{});
    const std::vector<Reader> ours = open_traces({"cramped"});
    const std::size_t compared = compare_served(only(host), only(ours), false);
    CHECK(compared >= before);
    before = compared;
  }
  CHECK(before > 0);
}

TEST_CASE("a device that fails ends the capture with its own status") {
  const auto operation = static_cast<std::uint64_t>(GENERATE(12, 57, 120, 301));
  device() = std::make_shared<CudaDouble>(CudaDouble::Behaviour{.seed = 2, .fatal_operation = operation});
  Engine engine;
  engine.with_hidden = true;
  engine.stream = device()->engine_stream();
  REQUIRE(engine.open(fresh("failing"), "channels=all") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  std::int32_t status = EVICTSIM_CAPTURE_OK;
  for (int step = 0; step < 50 && status == EVICTSIM_CAPTURE_OK; ++step) status = engine.step({{"r", 2, 4}});
  CHECK(status == EVICTSIM_CAPTURE_DEVICE_FAILURE);
  CHECK(engine.close() == EVICTSIM_CAPTURE_DEVICE_FAILURE);
  CHECK(device()->leaks() == 0);
}

TEST_CASE("tensors inside a CUDA graph are recorded at every replay") {
  device() = std::make_shared<CudaDouble>(CudaDouble::Behaviour{.seed = 8, .pieces = 2});
  Engine engine;
  engine.layers = 2;
  void* const stream = device()->engine_stream();
  REQUIRE(engine.open(fresh("graphs"), "when_full=drop\ngraph_ring=1MiB\ndtype=float32") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);

  // A graph for a batch of four rows: what it holds is written before each replay.
  constexpr std::int64_t rows = 4;
  struct Site {
    int role, layer;
    std::int64_t heads, width;  // heads 0: none
    std::unique_ptr<MadeTensor> tensor = nullptr;
  };
  std::vector<Site> sites;
  for (int layer = 0; layer < engine.layers; ++layer) {
    sites.push_back({EVICTSIM_CAPTURE_X, layer, 0, engine.hidden});
    sites.push_back({EVICTSIM_CAPTURE_Q, layer, engine.query_heads, engine.head_dim});
    sites.push_back({EVICTSIM_CAPTURE_K, layer, engine.kv_heads, engine.head_dim});
    sites.push_back({EVICTSIM_CAPTURE_V, layer, engine.kv_heads, engine.head_dim});
  }
  sites.push_back({EVICTSIM_CAPTURE_X, engine.layers, 0, engine.hidden});
  sites.push_back({EVICTSIM_CAPTURE_LOGITS, 0, 0, engine.vocab});
  const std::uint64_t number = device()->begin_capture(stream);
  std::uint64_t graph = 0;
  REQUIRE(evictsim_capture_begin_graph(engine.capture, stream, &graph) == EVICTSIM_CAPTURE_OK);
  CHECK(graph == number);
  for (Site& site : sites) {
    site.tensor = std::make_unique<MadeTensor>(rows, site.heads, site.width, Element::f32, Layout::compact,
                                               [](std::int64_t, std::int64_t) { return 0.0F; });
    site.tensor->get()->device = {kDLCUDA, 0};
    CHECK(evictsim_capture_push(engine.capture, site.tensor->get(), site.role, site.layer, stream) ==
          EVICTSIM_CAPTURE_OK);
  }
  // Cosines need to know whose rows these are: that is refused, and the graph goes on.
  MadeTensor stream_rows(rows, 0, engine.hidden, Element::f32, Layout::compact,
                         [](std::int64_t, std::int64_t) { return 0.0F; });
  stream_rows.get()->device = {kDLCUDA, 0};
  CHECK(evictsim_capture_push(engine.capture, stream_rows.get(), EVICTSIM_CAPTURE_AFTER_ATTENTION, 0, stream) ==
        EVICTSIM_CAPTURE_UNSUPPORTED);
  CHECK(evictsim_capture_end_graph(engine.capture) == EVICTSIM_CAPTURE_OK);
  device()->end_capture(stream);

  CHECK(evictsim_capture_begin_replay(engine.capture, graph, stream) == EVICTSIM_CAPTURE_WRONG_ORDER);
  constexpr std::int32_t steps = 5;
  const std::array<std::int32_t, 3> second_pass = {steps, 0, 1};
  REQUIRE(evictsim_capture_describe_second_pass(engine.capture, "r", second_pass.data(), second_pass.data() + 1, 1) ==
          EVICTSIM_CAPTURE_OK);
  for (std::int32_t step = 0; step <= steps; ++step) {
    const std::int32_t token = engine.token("r", step);
    const evictsim_capture_rows range{"r", 2, 1, step, 1, &token};  // the third row; the others are padding
    const evictsim_capture_rows again{"r", 2, 1, 0, 0, nullptr};    // the last replay is one of a second pass
    REQUIRE((step < steps ? evictsim_capture_begin_step(engine.capture, &range, 1)
                          : evictsim_capture_begin_pass(engine.capture, EVICTSIM_CAPTURE_SECOND_PASS, &again, 1)) ==
            EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_begin_replay(engine.capture, graph, stream) == EVICTSIM_CAPTURE_OK);
    for (const Site& site : sites) {
      auto* const data = static_cast<float*>(site.tensor->get()->data);
      const std::int64_t width = std::max<std::int64_t>(1, site.heads) * site.width;
      device()->enqueue(stream, [=, role = site.role, layer = site.layer] {
        for (std::int64_t element = 0; element < width; ++element) {
          data[2 * width + element] = engine_value("r", role, layer, step, element);
        }
      });
    }
    device()->launch_graph(number, stream);
    REQUIRE(evictsim_capture_end_replay(engine.capture) == EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_end_step(engine.capture) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(evictsim_capture_finish_request(engine.capture, "r") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(device()->breaches() == std::vector<std::string>{});
  CHECK(device()->leaks() == 0);

  const std::vector<Reader> readers = open_traces({"graphs"});
  REQUIRE(only(readers).sequences().size() == 1);
  CHECK(readers[0].sequences()[0].length == steps);
  for (int layer = 0; layer < engine.layers; ++layer) {
    const LayerTensors tensors_of_layer = readers[0].read_layer(0, layer);
    const std::vector<float> read_again = readers[0].read_second_pass_queries(0, layer).value().data;
    for (std::size_t i = 0; i < read_again.size(); ++i) {
      CHECK(read_again[i] == engine_value("r", EVICTSIM_CAPTURE_Q, layer, steps, static_cast<std::int64_t>(i)));
    }
    std::size_t wrong = 0, place = 0;
    for (int head = 0; head < engine.kv_heads; ++head) {
      for (std::int32_t step = 0; step < steps; ++step) {
        for (int i = 0; i < engine.head_dim; ++i, ++place) {
          const std::int64_t element = std::int64_t{head} * engine.head_dim + i;
          wrong += tensors_of_layer.k[place] != engine_value("r", EVICTSIM_CAPTURE_K, layer, step, element) ? 1U : 0U;
          wrong += tensors_of_layer.v[place] != engine_value("r", EVICTSIM_CAPTURE_V, layer, step, element) ? 1U : 0U;
        }
      }
    }
    CHECK(wrong == 0);
  }
  // Of a row alone entropies and norms are computed in the graph; what compares rows is left out.
  const auto row = [&](int role, int layer, std::int32_t token, std::int64_t width) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < width; ++i) values.push_back(engine_value("r", role, layer, token, i));
    return values;
  };
  const auto channel = [&](Channel wanted) { return readers[0].read_channel(0, wanted).value().data; };
  capture::DistributionReducer reducer;
  for (std::int32_t token = 0; token < steps; ++token) {
    const auto place = static_cast<std::size_t>(token);
    const capture::Distribution logits = reducer.reduce(row(EVICTSIM_CAPTURE_LOGITS, 0, token, engine.vocab));
    CHECK(channel(Channel::entropy)[place] == Approx(logits.entropy));
    CHECK(channel(Channel::entropy_top)[3 * place] == Approx(logits.entropy_top[0]));
    const auto norm_of = [&](int layer) { return capture::norm(row(EVICTSIM_CAPTURE_X, layer, token, engine.hidden)); };
    for (int layer = 0; layer < engine.layers; ++layer) {
      const std::size_t at = static_cast<std::size_t>(layer) * steps + place;
      CHECK(channel(Channel::residual_norm)[at] == Approx(norm_of(layer)));
    }
    CHECK(channel(Channel::final_norm_input)[place] == Approx(norm_of(engine.layers)));
  }
  for (const Channel compared : {Channel::step_norm, Channel::cos_attention, Channel::cos_final, Channel::logprob}) {
    CHECK_FALSE(readers[0].has_channel(0, compared));
  }
}
