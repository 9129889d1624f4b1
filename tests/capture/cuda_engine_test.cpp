// Does the copy engine deliver every row once, whole and in order, whatever order the device works in and whatever
// fails?
#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <string>

#include "tests/support/copy_engine_run.h"

using namespace evictsim;
using namespace evictsim::tests;
using namespace evictsim::traces::capture;

namespace {

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

/// Settings that a seed chooses; `threads` > 1 delivers in the background.
RunSettings settings_of(std::uint64_t seed, int threads) {
  std::mt19937_64 random(seed);
  RunSettings settings;
  settings.cuda.seed = seed;
  settings.cuda.eagerness = static_cast<int>(random() % 5);
  settings.cuda.pieces = 1 + random() % 4;
  settings.background = threads > 1 || random() % 4 == 0;
  settings.threads = threads;
  settings.drop = random() % 2 == 0;
  settings.steps = 4;
  settings.ring_bytes = 4096 + random() % 3 * 1024;
  settings.pending = 1 + random() % 24;
  settings.type =
      std::array{traces::TensorType::float16, traces::TensorType::bfloat16, traces::TensorType::float32}[random() % 3];
  return settings;
}

/// Runs that must go well; how many of them waited and dropped.
void run_seeds(std::uint64_t first, std::uint64_t count, int threads) {
  std::uint64_t waits = 0, drops = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const RunResult result = run_copy_engine(settings_of(seed, threads));
    waits += result.counters.waits;
    drops += result.counters.dropped_rows;
    if (result.problems.empty() && result.refusals.empty() && result.failures.empty()) continue;
    INFO("seed " << seed << "\n" << joined(result.problems));
    FAIL("the capture did not go well");
  }
  CHECK(waits > 0);
  CHECK(drops > 0);
}

/// Every call of one capture fails once, in each way.
void fail_each_call(RunSettings settings) {
  const std::uint64_t calls = run_copy_engine(settings).calls;
  REQUIRE(calls > 100);
  std::set<ErrorCode> codes;
  std::uint64_t failures = 0;
  for (std::uint64_t call = 0; call < calls; ++call) {
    for (const auto kind :
         {CudaResult::Kind::failure, CudaResult::Kind::out_of_memory, CudaResult::Kind::context_lost}) {
      settings.cuda.failing_call = call;
      settings.cuda.failure = kind;
      const RunResult result = run_copy_engine(settings);
      INFO("call " << call << ", kind " << static_cast<int>(kind) << "\n" << joined(result.problems));
      REQUIRE(result.problems.empty());
      REQUIRE(result.failures.size() <= 1);
      codes.insert(result.refusals.begin(), result.refusals.end());
      codes.insert(result.failures.begin(), result.failures.end());
      failures += result.failures.size();
    }
  }
  CHECK(codes == std::set<ErrorCode>{ErrorCode::out_of_memory, ErrorCode::device_failure});
  CHECK(failures > 100);
}

}  // namespace

TEST_CASE("thousands of interleavings lose, repeat, mix up and tear nothing") { run_seeds(1, 4000, 1); }

TEST_CASE("several engine threads and a delivering thread do no harm to each other") { run_seeds(1, 300, 3); }

TEST_CASE("many more interleavings", "[.slow]") {
  run_seeds(100000, 60000, 1);
  run_seeds(200000, 3000, 3);
}

TEST_CASE("whichever call fails, every selection is accounted for and nothing leaks") {
  RunSettings settings;
  settings.cuda.seed = 5;
  settings.steps = 2;
  SECTION("waiting") { fail_each_call(settings); }
  SECTION("dropping") {
    settings.drop = true;
    settings.steps = 8;
    settings.ring_bytes = 4096;
    fail_each_call(settings);
  }
  SECTION("with a delivering thread") {
    settings.background = true;
    fail_each_call(settings);
  }
}

TEST_CASE("a kernel or copy that breaks the context on the device ends the capture, not the program") {
  RunSettings settings;
  settings.cuda.seed = 11;
  settings.steps = 2;
  const std::uint64_t operations = run_copy_engine(settings).operations;
  REQUIRE(operations > 50);
  std::uint64_t failures = 0;
  for (const bool background : {false, true}) {
    settings.background = background;
    for (std::uint64_t operation = 0; operation < operations; ++operation) {
      settings.cuda.fatal_operation = operation;
      const RunResult result = run_copy_engine(settings);
      INFO("operation " << operation << "\n" << joined(result.problems));
      REQUIRE(result.problems.empty());
      failures += result.failures.size();
      for (const ErrorCode code : result.failures) REQUIRE(code == ErrorCode::device_failure);
    }
  }
  CHECK(failures > operations);
}

TEST_CASE("a sink that throws is told, and asked no more") {
  RunSettings settings;
  settings.cuda.seed = 3;
  for (std::uint64_t batch = 0; batch < 12; ++batch) {
    settings.background = batch % 2 == 0;
    settings.throwing_batch = batch;
    const RunResult result = run_copy_engine(settings);
    INFO(joined(result.problems));
    CHECK(result.problems.empty());
    CHECK(result.failures == std::vector{ErrorCode::io_failure});
    CHECK(result.counters.lost_rows > 0);
  }
}

namespace {

struct Setup {
  std::shared_ptr<CudaDouble> cuda = std::make_shared<CudaDouble>(CudaDouble::Behaviour{});
  ComparingReceiver receiver;
  CopyEngineOptions options;
  EngineTensor memory{*cuda, 8, 3, 5};
  CudaStream stream = cuda->engine_stream();

  Setup() {
    options.ring_bytes = 4096;
    options.pending = 4;
    options.background = false;
  }
  static RowSelection select(std::vector<std::int64_t> rows, std::vector<std::int32_t> heads = {}) {
    auto map = std::make_shared<RowMap>();
    map->source = std::move(rows);
    map->origin.resize(map->source.size());
    return {Role::key, 0, map, std::move(heads), Measure::rows};
  }
  ErrorCode refusal(CopyEngine& engine, const DLTensor& tensor, const RowSelection& selection) {
    try {
      engine.copy(tensor, selection, stream);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::interrupted;
  }
};

}  // namespace

TEST_CASE("what the engine cannot do is refused with a reason, and the capture goes on") {
  Setup setup;
  {
    CopyEngine engine(setup.cuda, setup.receiver, setup.options);
    DLTensor tensor = setup.memory.tensor(true);
    CHECK(setup.refusal(engine, tensor, Setup::select({8})) == ErrorCode::invalid_argument);
    CHECK(setup.refusal(engine, tensor, Setup::select({-1})) == ErrorCode::invalid_argument);
    CHECK(setup.refusal(engine, tensor, Setup::select({0}, {3})) == ErrorCode::invalid_argument);
    tensor.device = {kDLCPU, 0};
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);
    tensor.device = {kDLCUDA, 1};
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);
    tensor.device = {kDLCUDA, 0};
    tensor.dtype = {kDLInt, 32, 1};
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);
    tensor = setup.memory.tensor(true);
    CHECK(setup.refusal(engine, tensor, Setup::select(std::vector<std::int64_t>(500, 0))) ==
          ErrorCode::invalid_argument);  // more than the ring
    setup.cuda->begin_capture(setup.stream);
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);  // a graph cannot wait
    void* const mine = std::exchange(setup.stream, nullptr);
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);  // the legacy stream now
    setup.stream = mine;
    setup.cuda->invalidate_capture(setup.stream);
    CHECK(setup.refusal(engine, tensor, Setup::select({0})) == ErrorCode::unsupported);
    setup.cuda->end_capture(setup.stream);
    const RowSelection selection = Setup::select({1, 4});
    const std::vector<float> values = tensor_values(setup.memory.size(), 7);
    setup.receiver.expect(selection, setup.memory.expected(values, selection, traces::TensorType::float16));
    setup.cuda->enqueue(setup.stream, [&] { std::copy(values.begin(), values.end(), setup.memory.data()); });
    engine.copy(tensor, selection, setup.stream);
    engine.drain();
    CHECK(engine.counters().delivered_rows == 2);
  }
  CHECK(setup.receiver.problems().empty());
  CHECK(setup.receiver.failures().empty());
  CHECK(setup.cuda->leaks() == 0);
}

TEST_CASE("a ring that is too small or a device without memory is an error at once") {
  Setup setup;
  setup.options.ring_bytes = 100;
  CHECK_THROWS_AS(CopyEngine(setup.cuda, setup.receiver, setup.options), Error);
  const auto poor = std::make_shared<CudaDouble>(
      CudaDouble::Behaviour{.failing_call = 4, .failure = CudaResult::Kind::out_of_memory});
  setup.options.ring_bytes = 4096;
  try {
    CopyEngine engine(poor, setup.receiver, setup.options);
    FAIL("opened without memory");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::out_of_memory);
  }
  CHECK(poor->leaks() == 0);
}

TEST_CASE("room in the ring is given out in one piece and taken back in order") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    CopyRing ring(8 * CopyRing::alignment + random() % 100);
    REQUIRE(ring.bytes() == 8 * CopyRing::alignment);
    std::deque<std::pair<std::size_t, std::size_t>> held;
    std::size_t refused = 0;
    for (int action = 0; action < 200; ++action) {
      const std::size_t bytes = 1 + random() % (4 * CopyRing::alignment);
      if (random() % 2 == 0) {
        const auto offset = ring.reserve(bytes);
        if (!offset) {
          ++refused;
          REQUIRE_FALSE(held.empty());
          continue;
        }
        REQUIRE(*offset % CopyRing::alignment == 0);
        REQUIRE(*offset + bytes <= ring.bytes());
        for (const auto& [first, count] : held) {
          REQUIRE((*offset + CopyRing::rounded(bytes) <= first || first + count <= *offset));
        }
        held.emplace_back(*offset, CopyRing::rounded(bytes));
      } else if (!held.empty()) {
        ring.release_oldest();
        held.pop_front();
      }
    }
    CHECK(refused > 0);
    CHECK_FALSE(ring.reserve(ring.bytes() + 1));
  }
}
