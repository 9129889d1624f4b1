// Does every misuse of the capture's C interface get a status and a reason, and nothing worse?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/capture_engine.h"
#include "traces/manifest.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using namespace evictsim::traces::capture::test;
namespace fs = std::filesystem;

namespace {

std::string reason() { return evictsim_capture_last_error(); }

/// An engine whose capture has begun a step of four rows.
struct Opened {
  explicit Opened(const std::string& options = "", bool step = true) {
    fs::remove_all("misuse");
    REQUIRE(engine.open("misuse", options) == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    if (step) REQUIRE(evictsim_capture_begin_step(engine.capture, &range, 1) == EVICTSIM_CAPTURE_OK);
  }
  ~Opened() {
    if (engine.capture != nullptr) evictsim_capture_close(engine.capture);
  }
  std::int32_t push(MadeTensor& tensor, int role, int layer) {
    return evictsim_capture_push(engine.capture, tensor.get(), role, layer, nullptr);
  }
  Engine engine;
  std::array<std::int32_t, 4> tokens = {1, 2, 3, 4};
  evictsim_capture_rows range{"r", 0, 4, 0, 4, tokens.data()};
};

MadeTensor keys(std::int64_t rows, std::int64_t heads = 2, std::int64_t width = 8) {
  return {rows, heads, width, Element::f32, Layout::compact, [](std::int64_t, std::int64_t) { return 1.0F; }};
}

}  // namespace

TEST_CASE("opening refuses what it cannot do") {
  evictsim_capture* capture = nullptr;
  const auto open = [&](const char* directory, const char* options, std::uint32_t version = interface_version) {
    fs::remove_all("refused");
    return evictsim_capture_open(directory, options, version, &capture);
  };
  CHECK(evictsim_capture_open("refused", "", interface_version, nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(open(nullptr, "") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(open("", "") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(open("no/such/parent", "") == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
  CHECK(open("refused", "", interface_version + 1) == EVICTSIM_CAPTURE_VERSION_MISMATCH);
  CHECK(open("refused", "", interface_version + 0x10000) == EVICTSIM_CAPTURE_VERSION_MISMATCH);
  CHECK(open("refused", "", 0) == EVICTSIM_CAPTURE_VERSION_MISMATCH);
  for (const auto& [text, named] : std::vector<std::pair<const char*, const char*>>{{"colour=blue", "colour"},
                                                                                    {"dtype=int8", "dtype"},
                                                                                    {"layers=3,1", "layers"},
                                                                                    {"layers=", "layers"},
                                                                                    {"every=0", "every"},
                                                                                    {"queue=many", "queue"},
                                                                                    {"threads=0", "threads"},
                                                                                    {"threads=1\nthreads=2", "threads"},
                                                                                    {"q_rows=window:", "q_rows"},
                                                                                    {"channels=smell", "channels"},
                                                                                    {"nonsense", "nonsense"},
                                                                                    {"when_full=panic", "when_full"},
                                                                                    {"x=yes", "x"}}) {
    INFO(text);
    CHECK(open("refused", text) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(reason().find(named) != std::string::npos);
    CHECK(capture == nullptr);
  }
  CHECK(evictsim_capture_abi_version() == interface_version);
  CHECK(std::string(evictsim_capture_version()).find('.') != std::string::npos);
}

TEST_CASE("two captures do not share a directory") {
  const Opened opened;
  Engine second;
  CHECK(second.open("misuse", "") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(reason().find("another capture") != std::string::npos);
}

TEST_CASE("handles that are none are refused by every call") {
  Engine engine;
  fs::remove_all("closed");
  REQUIRE(engine.open("closed", "") == EVICTSIM_CAPTURE_OK);
  evictsim_capture* closed = engine.capture;
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  int somewhere = 0;
  for (evictsim_capture* capture :
       {static_cast<evictsim_capture*>(nullptr), closed, reinterpret_cast<evictsim_capture*>(&somewhere)}) {
    evictsim_capture_counters counters{};
    counters.struct_size = sizeof counters;
    CHECK(evictsim_capture_model(capture, "") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_weight(capture, nullptr, 0, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_vocabulary(capture, nullptr, nullptr, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_describe_request(capture, "r", nullptr, nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_begin_step(capture, nullptr, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_push(capture, nullptr, 0, 0, nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_end_step(capture) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_finish_request(capture, "r") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_flush(capture) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_get_counters(capture, &counters) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_last_loss(capture) == nullptr);
    CHECK(evictsim_capture_close(capture) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(reason().find("handle") != std::string::npos);
  }
}

TEST_CASE("the model record is checked") {
  Engine engine;
  fs::remove_all("model");
  REQUIRE(engine.open("model", "layers=0,2\nkv_heads=1") == EVICTSIM_CAPTURE_OK);
  const std::array<std::int64_t, 41> ends{};
  CHECK(evictsim_capture_vocabulary(engine.capture, "", ends.data(), 1) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_begin_step(engine.capture, nullptr, 0) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_push(engine.capture, nullptr, 0, 0, nullptr) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_weight(engine.capture, nullptr, 0, 0) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_model(engine.capture, nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  const auto refused = [&](const std::string& line, const std::string& replacement) {
    std::string text = engine.model_text();
    REQUIRE(text.find(line) != std::string::npos);
    text.replace(text.find(line), line.size(), replacement);
    const std::int32_t status = evictsim_capture_model(engine.capture, text.c_str());
    INFO(replacement << ": " << reason());
    CHECK(status != EVICTSIM_CAPTURE_OK);
    CHECK(!reason().empty());
  };
  refused("num_layers=3", "");
  refused("num_layers=3", "num_layers=2");  // layer 2 is to be captured
  refused("num_layers=3", "num_layers=0");
  refused("num_kv_heads=2", "num_kv_heads=1");  // head 1 is to be captured
  refused("num_kv_heads=2", "num_kv_heads=3");
  refused("head_dim=8", "head_dim=7");  // RoPE turns pairs
  refused("vocab_size=40", "vocab_size=-1");
  refused("rope_theta=10000", "");
  refused("rope_layout=half", "rope_layout=spiral");
  refused("rope_theta=10000", "rope_theta=10000\ninv_freq=1,2");
  refused("rope_theta=10000", "rope_theta=10000\nsliding_window=4");
  refused("rope_theta=10000", "rope_theta=10000\nsensitivity=1,2");
  refused("rope_theta=10000", "rope_theta=10000\nsensitivity=1,-2,3");
  refused("rope_theta=10000", "rope_theta=10000\nsensitivity_=what is this");
  CHECK(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.model() == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_vocabulary(engine.capture, nullptr, ends.data(), 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_vocabulary(engine.capture, "", nullptr, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_vocabulary(engine.capture, "", ends.data(), 41) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  const std::array<std::int64_t, 2> decreasing = {1, 0}, negative = {-1, 0};
  CHECK(evictsim_capture_vocabulary(engine.capture, "a", decreasing.data(), 2) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_vocabulary(engine.capture, "a", negative.data(), 2) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_vocabulary(engine.capture, "", ends.data(), 40) == EVICTSIM_CAPTURE_OK);
  MadeTensor small(2, 0, 2, Element::f32, Layout::compact, [](std::int64_t, std::int64_t) { return 1.0F; });
  MadeTensor norm(1, 0, 16, Element::f32, Layout::compact, [](std::int64_t, std::int64_t) { return 1.0F; });
  for (const int weight : {0, 1, 2, 3, 4}) {
    CHECK(evictsim_capture_weight(engine.capture, small.get(), weight, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
    CHECK(evictsim_capture_weight(engine.capture, nullptr, weight, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  }
  CHECK(evictsim_capture_weight(engine.capture, small.get(), 5, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_weight(engine.capture, small.get(), 0, 3) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  norm.get()->ndim = 1;  // [16]: the row axis only
  norm.get()->shape[0] = 16;
  norm.get()->strides[0] = 1;
  CHECK(evictsim_capture_weight(engine.capture, norm.get(), EVICTSIM_CAPTURE_INPUT_NORM, 0) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_weight(engine.capture, norm.get(), EVICTSIM_CAPTURE_INPUT_NORM, 0) ==
        EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
}

TEST_CASE("ranges of a step are checked, and a refused step has not begun") {
  Opened opened("", false);
  evictsim_capture* capture = opened.engine.capture;
  const auto begin = [&](const std::vector<evictsim_capture_rows>& ranges) {
    return evictsim_capture_begin_step(capture, ranges.data(), ranges.size());
  };
  const auto with = [&](const std::function<void(evictsim_capture_rows&)>& change) {
    evictsim_capture_rows range = opened.range;
    change(range);
    return range;
  };
  const std::vector<evictsim_capture_rows> wrong = {
      with([](auto& range) { range.request_id = nullptr; }),
      with([](auto& range) { range.token_ids = nullptr; }),
      with([](auto& range) { range.count = -1; }),
      with([](auto& range) { range.first_row = -4; }),
      with([](auto& range) { range.first_position = -1; }),
      with([](auto& range) { range.prompt_length = -1; }),
      with([](auto& range) { range.first_row = std::numeric_limits<std::int64_t>::max(); }),
      with([](auto& range) { range.count = std::numeric_limits<std::int64_t>::max(); }),
  };
  for (const evictsim_capture_rows& range : wrong) CHECK(begin({range}) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(begin({opened.range, opened.range}) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(begin({opened.range, with([](auto& range) {
                 range.request_id = "s";
                 range.first_row = 3;
               })}) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  opened.tokens[2] = 40;
  CHECK(begin({opened.range}) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(reason().find("vocabulary") != std::string::npos);
  opened.tokens[2] = 3;
  CHECK(evictsim_capture_begin_step(capture, nullptr, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_end_step(capture) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(opened.engine.counters().rows == 0);
  CHECK(begin({opened.range}) == EVICTSIM_CAPTURE_OK);
  CHECK(begin({opened.range}) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_finish_request(capture, "r") == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_describe_request(capture, "r", "", nullptr) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_describe_request(capture, nullptr, "", nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_describe_request(capture, "s", "colour=1", nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_describe_request(capture, "s", "span=evidence=words", nullptr) ==
        EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  // Nothing was pushed: the step says so and the request is given up.
  CHECK(evictsim_capture_end_step(capture) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(reason().find("layer 0: k was not pushed") != std::string::npos);
  CHECK(evictsim_capture_finish_request(capture, "never seen") == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(capture, "r") == EVICTSIM_CAPTURE_OK);
  CHECK(opened.engine.counters().dropped_rows == 4);
  CHECK(opened.engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK_FALSE(fs::exists("misuse/manifest.jsonl"));
}

TEST_CASE("tensors are checked against the model and the step") {
  Opened opened;
  MadeTensor good = keys(4);
  const auto refused = [&](std::int32_t status, const std::function<void(DLTensor&)>& change) {
    MadeTensor tensor = keys(4);
    change(*tensor.get());
    INFO(reason());
    CHECK(opened.push(tensor, EVICTSIM_CAPTURE_K, 0) == status);
  };
  CHECK(evictsim_capture_push(opened.engine.capture, nullptr, EVICTSIM_CAPTURE_K, 0, nullptr) ==
        EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  for (const int role : {-1, 14, 1000}) CHECK(opened.push(good, role, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  for (const int layer : {-1, 3})
    CHECK(opened.push(good, EVICTSIM_CAPTURE_K, layer) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(opened.push(good, EVICTSIM_CAPTURE_Q, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);  // four heads
  MadeTensor few = keys(3), narrow = keys(4, 2, 7);
  CHECK(opened.push(few, EVICTSIM_CAPTURE_K, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(opened.push(narrow, EVICTSIM_CAPTURE_K, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.ndim = 2; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.ndim = -1; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.ndim = 1 << 30; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.data = nullptr; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.shape = nullptr; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT, [](DLTensor& tensor) { tensor.shape[0] = -4; });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT,
          [](DLTensor& tensor) { tensor.shape[0] = std::numeric_limits<std::int64_t>::max(); });
  refused(EVICTSIM_CAPTURE_INVALID_ARGUMENT,
          [](DLTensor& tensor) { tensor.strides[0] = std::numeric_limits<std::int64_t>::max(); });
  refused(EVICTSIM_CAPTURE_UNSUPPORTED, [](DLTensor& tensor) { tensor.dtype = {kDLFloat, 64, 1}; });
  refused(EVICTSIM_CAPTURE_UNSUPPORTED, [](DLTensor& tensor) { tensor.dtype = {kDLInt, 32, 1}; });
  refused(EVICTSIM_CAPTURE_UNSUPPORTED, [](DLTensor& tensor) { tensor.dtype.lanes = 4; });
  refused(EVICTSIM_CAPTURE_UNSUPPORTED, [](DLTensor& tensor) { tensor.device.device_type = kDLMetal; });
  refused(EVICTSIM_CAPTURE_UNSUPPORTED, [](DLTensor& tensor) { tensor.byte_offset = 1; });
  CHECK(opened.push(good, EVICTSIM_CAPTURE_K, 0) == EVICTSIM_CAPTURE_OK);
  CHECK(opened.push(good, EVICTSIM_CAPTURE_K, 0) == EVICTSIM_CAPTURE_WRONG_ORDER);
}

TEST_CASE("numbers that cannot be stored cut their own request only") {
  const float bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 70000.0F);
  Engine engine;
  fs::remove_all("bad-values");
  REQUIRE(engine.open("bad-values", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"a", 3, 3}, {"b", 3, 3}}) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"a", 1, 3}, {"b", 1, 3}}) == EVICTSIM_CAPTURE_OK);
  const std::array<std::int32_t, 1> a = {engine.token("a", 4)};
  const std::array<std::int32_t, 1> b = {engine.token("b", 4)};
  const std::array<evictsim_capture_rows, 2> ranges = {{{"a", 0, 1, 4, 3, a.data()}, {"b", 1, 1, 4, 3, b.data()}}};
  REQUIRE(evictsim_capture_begin_step(engine.capture, ranges.data(), 2) == EVICTSIM_CAPTURE_OK);
  for (int layer = 0; layer < 3; ++layer) {
    for (const int role : {EVICTSIM_CAPTURE_Q, EVICTSIM_CAPTURE_K, EVICTSIM_CAPTURE_V}) {
      const bool broken = layer == 1 && role == EVICTSIM_CAPTURE_V;
      MadeTensor tensor(2, role == EVICTSIM_CAPTURE_Q ? 4 : 2, 8, Element::f32, Layout::compact,
                        [&](std::int64_t row, std::int64_t i) { return broken && row == 0 && i == 9 ? bad : 0.5F; });
      CHECK(evictsim_capture_push(engine.capture, tensor.get(), role, layer, nullptr) ==
            (broken ? EVICTSIM_CAPTURE_INVALID_VALUE : EVICTSIM_CAPTURE_OK));
      if (broken) CHECK(reason().find("request a from token 4") != std::string::npos);
    }
  }
  CHECK(evictsim_capture_end_step(engine.capture) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(verify("bad-values").empty());
  const Reader reader = std::move(open_traces({"bad-values"}).at(0));
  CHECK(reader.header().dropped_rows == 1);
  REQUIRE(reader.sequences().size() == 2);
  CHECK(reader.sequences()[0].length + reader.sequences()[1].length == 4 + 5);
}

TEST_CASE("calls of several threads on one handle wait for each other") {
  Engine engine;
  fs::remove_all("threads");
  REQUIRE(engine.open("threads", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  bool stop = false;
  std::thread reader([&] {
    for (int i = 0; i < 1000; ++i) {
      evictsim_capture_counters counters{};
      counters.struct_size = sizeof counters;
      if (evictsim_capture_get_counters(engine.capture, &counters) != EVICTSIM_CAPTURE_OK) stop = true;
    }
  });
  for (int i = 0; i < 20; ++i) CHECK(engine.run("request " + std::to_string(i), 30, 3) == EVICTSIM_CAPTURE_OK);
  reader.join();
  CHECK_FALSE(stop);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(verify("threads").empty());
}
