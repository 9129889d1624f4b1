// Do rows written inside CUDA graphs arrive with the step of their replay, and are those that do not fit counted?
#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <random>

#include "tests/support/copy_engine_run.h"

using namespace evictsim;
using namespace evictsim::tests;
using namespace evictsim::traces::capture;

namespace {

constexpr std::int64_t tensor_rows = 6;

/// An engine whose decode step is one CUDA graph: fixed tensors, and contents that a word in memory decides.
struct GraphEngine {
  std::shared_ptr<CudaDouble> cuda;
  ComparingReceiver receiver;
  std::vector<EngineTensor> tensors;
  std::shared_ptr<std::uint64_t> input = std::make_shared<std::uint64_t>(0);
  CudaStream stream = nullptr;
  std::uint64_t graph = 0;

  GraphEngine(const CudaDouble::Behaviour& behaviour, int layers) : cuda(std::make_shared<CudaDouble>(behaviour)) {
    stream = cuda->engine_stream();
    for (int layer = 0; layer < layers; ++layer) tensors.emplace_back(*cuda, tensor_rows, 2, 4);
  }

  static std::uint64_t key_of(std::uint64_t input, std::size_t layer) { return input * 16 + layer; }

  [[nodiscard]] RowSelection select(std::size_t layer, std::shared_ptr<const RowMap> rows) const {
    return {Role::key, static_cast<int>(layer), std::move(rows),
            layer % 2 == 0 ? std::vector<std::int32_t>{} : std::vector{1}, Measure::rows};
  }

  void capture(CopyEngine& copier) {
    graph = cuda->begin_capture(stream);
    CHECK(copier.graph_of(stream) == graph);
    for (std::size_t layer = 0; layer < tensors.size(); ++layer) {
      float* const data = tensors[layer].data();
      cuda->enqueue(stream, [=, word = input, size = tensors[layer].size()] {
        const std::vector<float> values = tensor_values(size, key_of(*word, layer));
        std::copy(values.begin(), values.end(), data);
      });
      copier.copy(tensors[layer].tensor(true), select(layer, nullptr), stream);
      cuda->enqueue(stream, [=, size = tensors[layer].size()] { std::fill_n(data, size, -1.0F); });
    }
    cuda->end_capture(stream);
    CHECK(copier.graph_of(stream) == 0);
  }

  void set_input(std::uint64_t value, CudaStream on) {
    cuda->enqueue(on, [word = input, value] { *word = value; });
  }

  void replay(CopyEngine& copier, std::uint64_t step, std::shared_ptr<RowMap> rows, CudaStream on) {
    rows->step = step;
    rows->origin.resize(rows->source.size());
    for (std::size_t layer = 0; layer < tensors.size(); ++layer) {
      const RowSelection selection = select(layer, rows);
      receiver.expect(selection, tensors[layer].expected(tensor_values(tensors[layer].size(), key_of(step, layer)),
                                                         selection, traces::TensorType::float16));
    }
    copier.begin_replay(
        graph, [&](const RowSelection&) { return rows; }, on);
    set_input(step, on);
    cuda->launch_graph(graph, on);
    copier.end_replay();
  }
};

CopyEngineOptions graph_options(std::size_t graph_ring_bytes) {
  CopyEngineOptions options;
  options.ring_bytes = 4096;
  options.pending = 3;
  options.background = false;
  options.drop = true;
  options.graph_ring_bytes = graph_ring_bytes;
  options.graph_sites = 8;
  return options;
}

std::shared_ptr<RowMap> some_rows(std::mt19937_64& random) {
  auto rows = std::make_shared<RowMap>();
  const std::uint64_t way = random() % 3;
  for (std::int64_t row = 0; row < tensor_rows; ++row) {
    if (way == 0 || (way == 1 && row < 4) || (way == 2 && random() % 2 == 0)) rows->source.push_back(row);
  }
  return rows;
}

}  // namespace

TEST_CASE("replays deliver their rows, or say that they were dropped") {
  std::uint64_t dropped = 0, delivered = 0, unannounced = 0;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const CudaDouble::Behaviour behaviour{
        .seed = seed, .eagerness = static_cast<int>(random() % 6), .pieces = 1 + random() % 3};
    GraphEngine engine(behaviour, 3);
    CopyEngineOptions options = graph_options(640 + random() % 4 * 256);
    options.background = seed % 5 == 0;
    const bool two_streams = seed % 3 == 0;
    CudaStream other = engine.cuda->engine_stream();
    CopyCounters counters;
    {
      CopyEngine copier(engine.cuda, engine.receiver, options);
      engine.capture(copier);
      for (std::uint64_t step = 1; step <= 8; ++step) {
        // An engine that launches a graph without saying so; it would order its launches itself on several streams.
        if (!two_streams && random() % 3 == 0) {
          engine.set_input(1000 + step, engine.stream);
          engine.cuda->launch_graph(engine.graph, engine.stream);
        }
        engine.replay(copier, step, some_rows(random), two_streams && random() % 2 == 0 ? other : engine.stream);
        if (random() % 3 == 0) copier.drain();
      }
      copier.drain();
      counters = copier.counters();
      engine.cuda->finish();
    }
    dropped += counters.dropped_rows;
    delivered += counters.delivered_rows;
    unannounced += counters.unannounced_rows;
    REQUIRE(engine.receiver.problems() == std::vector<std::string>{});
    REQUIRE(counters.rows == counters.delivered_rows + counters.dropped_rows);
    REQUIRE(counters.delivered_rows == engine.receiver.received_rows());
    REQUIRE(counters.dropped_rows == engine.receiver.dropped_rows());
    REQUIRE(engine.cuda->breaches() == std::vector<std::string>{});
    REQUIRE(engine.cuda->leaks() == 0);
  }
  CHECK(dropped > 0);
  CHECK(delivered > dropped);
  CHECK(unannounced > 0);
}

TEST_CASE("a ring with room for every replay drops nothing") {
  GraphEngine engine({.seed = 4}, 3);
  {
    CopyEngine copier(engine.cuda, engine.receiver, graph_options(1 << 16));
    engine.capture(copier);
    std::mt19937_64 random(4);
    for (std::uint64_t step = 1; step <= 40; ++step) {
      engine.replay(copier, step, some_rows(random), engine.stream);
    }
    copier.drain();
    CHECK(copier.counters().dropped_rows == 0);
    CHECK(copier.counters().delivered_rows > 100);
  }
  CHECK(engine.receiver.problems().empty());
}

TEST_CASE("eager steps and replays of the same layer keep their order") {
  GraphEngine engine({.seed = 9}, 2);
  {
    CopyEngine copier(engine.cuda, engine.receiver, graph_options(1 << 14));
    engine.capture(copier);
    std::mt19937_64 random(9);
    for (std::uint64_t step = 1; step <= 12; ++step) {
      if (step % 3 != 0) {
        engine.replay(copier, step, some_rows(random), engine.stream);
        continue;
      }
      auto rows = some_rows(random);
      rows->step = step;
      const RowSelection selection = engine.select(0, rows);
      const std::vector<float> values = tensor_values(engine.tensors[0].size(), step);
      engine.receiver.expect(selection, engine.tensors[0].expected(values, selection, traces::TensorType::float16));
      engine.cuda->enqueue(engine.stream,
                           [=, data = engine.tensors[0].data()] { std::copy(values.begin(), values.end(), data); });
      copier.copy(engine.tensors[0].tensor(true), selection, engine.stream);
    }
    copier.drain();
  }
  CHECK(engine.receiver.problems() == std::vector<std::string>{});
}

TEST_CASE("opening, delivering and closing leave a capture of the engine alone") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    GraphEngine engine({.seed = seed}, 2);
    const CudaStream busy = engine.cuda->engine_stream();
    engine.cuda->begin_capture(busy);
    {
      CopyEngineOptions options = graph_options(1 << 14);
      options.background = true;
      CopyEngine copier(engine.cuda, engine.receiver, options);
      engine.capture(copier);
      std::mt19937_64 random(seed);
      for (std::uint64_t step = 1; step <= 6; ++step) engine.replay(copier, step, some_rows(random), engine.stream);
    }
    CHECK(engine.receiver.problems() == std::vector<std::string>{});
    CHECK(engine.cuda->breaches() == std::vector<std::string>{});
    engine.cuda->end_capture(busy);
  }
}

TEST_CASE("kernels of two graphs that run at once write whole records or none") {
  // The claims of two sites with nothing between them, as concurrent branches would be.
  std::vector<unsigned char> ring(1024);
  GraphRingState state{};
  std::uint64_t consumed = 0, grants[2] = {};
  const auto claim = [&](std::uint64_t site) {
    GraphClaim{&state, &consumed, &grants[site], ring.data(), ring.size(), 128, 5, site}();
  };
  claim(0);
  claim(1);
  CHECK(grants[0] == 0);
  CHECK(grants[1] == KernelOutput::no_grant);
  CHECK(state.conflicting_rows == 5);
  KernelOutput output{ring.data(), &grants[1], ring.size(), graph_header_bytes};
  CHECK(output.resolve() == nullptr);
  GraphPublish{&state, &grants[1]}();
  CHECK(state.published == 0);
  GraphPublish{&state, &grants[0]}();
  CHECK(state.published == 128);
  claim(1);
  CHECK(grants[1] == 128);
}

TEST_CASE("what a graph cannot do is refused with a reason") {
  const auto code_of = [](const auto& action) -> std::optional<ErrorCode> {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return std::nullopt;
  };
  GraphEngine engine({}, 2);
  CopyEngine copier(engine.cuda, engine.receiver, graph_options(512));
  auto rows = std::make_shared<RowMap>();
  const auto all_rows = [&](const RowSelection&) { return rows; };
  CHECK(code_of([&] { copier.begin_replay(77, all_rows, engine.stream); }) == ErrorCode::invalid_argument);
  CHECK(code_of([&] { copier.end_replay(); }) == ErrorCode::invalid_argument);
  engine.cuda->begin_capture(engine.stream);
  const DLTensor tensor = engine.tensors[0].tensor(true);
  RowSelection uneven = engine.select(0, nullptr);
  uneven.heads = {0, 1, 1};
  CHECK(code_of([&] { copier.copy(tensor, uneven, engine.stream); }) == ErrorCode::unsupported);
  const EngineTensor large(*engine.cuda, 1000, 2, 4);
  CHECK(code_of([&] { copier.copy(large.tensor(true), engine.select(0, nullptr), engine.stream); }) ==
        ErrorCode::unsupported);
  for (int site = 0; site < 8; ++site) copier.copy(tensor, engine.select(0, nullptr), engine.stream);
  CHECK(code_of([&] { copier.copy(tensor, engine.select(0, nullptr), engine.stream); }) == ErrorCode::unsupported);
  engine.cuda->end_capture(engine.stream);
  rows->source = {tensor_rows};
  CHECK(code_of([&] { copier.begin_replay(1, all_rows, engine.stream); }) == ErrorCode::invalid_argument);
  rows->source = {0};
  copier.begin_replay(1, all_rows, engine.stream);
  CHECK(code_of([&] { copier.begin_replay(1, all_rows, engine.stream); }) == ErrorCode::invalid_argument);

  CopyEngineOptions without = graph_options(0);
  CopyEngine plain(engine.cuda, engine.receiver, without);
  engine.cuda->begin_capture(engine.stream);
  CHECK(code_of([&] { plain.copy(tensor, engine.select(0, nullptr), engine.stream); }) == ErrorCode::unsupported);
}
