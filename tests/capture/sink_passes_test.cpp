// Does the sink store passes beside a sequence (a second pass, documents alone) row by row, and leave out broken ones?
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tests/support/capture_engine.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using namespace evictsim::traces::capture;
using namespace evictsim::traces::capture::test;
namespace fs = std::filesystem;

namespace {

constexpr int heads_of_query = 4, heads_of_key = 2, width = 8, layer_count = 3;

/// A request of 10 prompt and 2 decode tokens, with passes of which every row is a made-up number.
struct Capture {
  explicit Capture(const std::string& options = "", std::uint32_t version = interface_version) {
    fs::remove_all("passes");
    REQUIRE(evictsim_capture_open("passes", options.c_str(), version, &engine.capture) == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  }
  ~Capture() {
    if (engine.capture != nullptr) evictsim_capture_close(engine.capture);
  }
  void announce(const char* request) {
    REQUIRE(evictsim_capture_describe_second_pass(engine.capture, request, positions.data(), chunks.data(),
                                                  positions.size()) == EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_describe_packets(engine.capture, request, EVICTSIM_CAPTURE_WRAPPED_PACKETS, wrapped.data(),
                                              wrapped.size()) == EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_describe_packets(engine.capture, request, EVICTSIM_CAPTURE_BARE_PACKETS, bare.data(),
                                              bare.size()) == EVICTSIM_CAPTURE_OK);
  }
  void sequence(const std::string& request) {
    REQUIRE(engine.step({{request, 10, 10}}) == EVICTSIM_CAPTURE_OK);
    for (int i = 0; i < 2; ++i) REQUIRE(engine.step({{request, 1, 10}}) == EVICTSIM_CAPTURE_OK);
  }
  /// The value of a row of a pass.
  static float value(int pass, int role, int layer, std::int64_t row, std::int64_t element) {
    return engine_value("pass " + std::to_string(pass), role, layer, row, element);
  }
  std::int32_t begin(const char* request, int pass, std::int32_t first, std::int32_t count) {
    const evictsim_capture_rows range{request, 1, count, first, 0, nullptr};
    return evictsim_capture_begin_pass(engine.capture, pass, &range, 1);
  }
  /// Pushes rows, behind one of padding, of the tensors named by `roles`.
  std::int32_t push(int pass, std::int32_t first, std::int32_t count, const std::vector<int>& roles, float broken = 0) {
    std::int32_t status = EVICTSIM_CAPTURE_OK;
    for (int layer = 0; layer < layer_count; ++layer) {
      for (const int role : roles) {
        MadeTensor tensor(count + 1, role == EVICTSIM_CAPTURE_Q ? heads_of_query : heads_of_key, width, Element::f32,
                          Layout::heads_first, [&](std::int64_t row, std::int64_t element) {
                            return broken != 0 && row == count ? broken
                                                               : value(pass, role, layer, first + row - 1, element);
                          });
        const std::int32_t pushed = evictsim_capture_push(engine.capture, tensor.get(), role, layer, nullptr);
        if (status == EVICTSIM_CAPTURE_OK) status = pushed;
      }
    }
    return status;
  }
  void rows(const char* request, int pass, std::int32_t first, std::int32_t count, const std::vector<int>& roles) {
    REQUIRE(begin(request, pass, first, count) == EVICTSIM_CAPTURE_OK);
    REQUIRE(push(pass, first, count, roles) == EVICTSIM_CAPTURE_OK);
    REQUIRE(evictsim_capture_end_step(engine.capture) == EVICTSIM_CAPTURE_OK);
  }
  Reader close() {
    REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
    std::string faults;
    for (const Fault& fault : verify("passes")) faults += fault.line + "\n";
    CHECK(faults == "");
    return Reader("passes/shard-000000.h5");
  }

  Engine engine;
  std::vector<std::int32_t> positions = {10, 11, 12, 13, 10};
  std::vector<std::int32_t> chunks = {0, 6, 0, 6, 0, 6, 0, 6, 6, 10};
  std::vector<evictsim_capture_packet> wrapped = {{1, 4, 2, 1}, {4, 7, 0, 1}}, bare = {{1, 4, 0, 0}, {4, 7, 0, 0}};
};

const std::vector<int> all_roles = {EVICTSIM_CAPTURE_Q, EVICTSIM_CAPTURE_K, EVICTSIM_CAPTURE_V};
const std::vector<int> keys_and_values = {EVICTSIM_CAPTURE_K, EVICTSIM_CAPTURE_V};

/// [heads, rows, width] against what was pushed.
void check(const std::vector<float>& stored, int pass, int role, int layer, std::size_t rows) {
  const auto heads = static_cast<std::size_t>(role == EVICTSIM_CAPTURE_Q ? heads_of_query : heads_of_key);
  REQUIRE(stored.size() == heads * rows * width);
  std::size_t wrong = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = 0; i < width; ++i) {
        const float expected = Capture::value(pass, role, layer, static_cast<std::int64_t>(row),
                                              static_cast<std::int64_t>(head * width + i));
        if (stored[(head * rows + row) * width + i] != expected) ++wrong;
      }
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("passes beside a sequence come back row by row") {
  Capture capture("dtype=float32");
  capture.announce("r");
  capture.sequence("r");
  capture.rows("r", EVICTSIM_CAPTURE_SECOND_PASS, 0, 4, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_WRAPPED_PACKETS, 0, 6, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_SECOND_PASS, 4, 1, {EVICTSIM_CAPTURE_Q, EVICTSIM_CAPTURE_K});
  capture.rows("r", EVICTSIM_CAPTURE_WRAPPED_PACKETS, 6, 4, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_BARE_PACKETS, 0, 6, keys_and_values);
  capture.rows("r", EVICTSIM_CAPTURE_BEHIND_WRAPPED, 0, 3, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_BEHIND_WRAPPED, 3, 2, all_roles);
  CHECK(evictsim_capture_finish_request(capture.engine.capture, "r") == EVICTSIM_CAPTURE_OK);
  CHECK(capture.engine.counters().dropped_passes == 0);
  const Reader reader = capture.close();
  const SecondPass second = reader.read_second_pass(0).value();
  CHECK(second.positions == capture.positions);
  CHECK(second.chunk == std::vector<Span>{{0, 6}, {0, 6}, {0, 6}, {0, 6}, {6, 10}});
  CHECK(reader.read_packets(0, PacketSet::wrapped) == Packets{{{1, 4}, 2, 1}, {{4, 7}, 0, 1}});
  CHECK(reader.read_packets(0, PacketSet::bare) == Packets{{{1, 4}}, {{4, 7}}});
  for (int layer = 0; layer < layer_count; ++layer) {
    const auto same = [layer](const std::vector<float>& stored, int pass, int role, std::size_t rows) {
      check(stored, pass, role, layer, rows);
    };
    same(reader.read_second_pass_queries(0, layer)->data, EVICTSIM_CAPTURE_SECOND_PASS, EVICTSIM_CAPTURE_Q, 5);
    same(reader.read_second_pass_keys(0, layer)->data, EVICTSIM_CAPTURE_SECOND_PASS, EVICTSIM_CAPTURE_K, 5);
    const PacketTensors tensors = reader.read_packet_layer(0, layer, PacketSet::wrapped);
    same(tensors.k, EVICTSIM_CAPTURE_WRAPPED_PACKETS, EVICTSIM_CAPTURE_K, 10);
    same(tensors.v, EVICTSIM_CAPTURE_WRAPPED_PACKETS, EVICTSIM_CAPTURE_V, 10);
    same(tensors.q, EVICTSIM_CAPTURE_WRAPPED_PACKETS, EVICTSIM_CAPTURE_Q, 10);
    same(tensors.after_k, EVICTSIM_CAPTURE_BEHIND_WRAPPED, EVICTSIM_CAPTURE_K, 5);
    same(tensors.after_q, EVICTSIM_CAPTURE_BEHIND_WRAPPED, EVICTSIM_CAPTURE_Q, 5);
    const PacketTensors alone = reader.read_packet_layer(0, layer, PacketSet::bare);
    same(alone.v, EVICTSIM_CAPTURE_BARE_PACKETS, EVICTSIM_CAPTURE_V, 6);
    CHECK(alone.q.empty());
    CHECK(alone.after_k.empty());
  }
}

TEST_CASE("a pass that misses rows is left out, and the rest stays") {
  Capture capture;
  capture.announce("r");
  capture.sequence("r");
  capture.rows("r", EVICTSIM_CAPTURE_SECOND_PASS, 0, 3, all_roles);  // of five
  capture.rows("r", EVICTSIM_CAPTURE_WRAPPED_PACKETS, 0, 10, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_BEHIND_WRAPPED, 0, 4, all_roles);  // of five
  const bool missing = GENERATE(true, false);
  REQUIRE(capture.begin("r", EVICTSIM_CAPTURE_BARE_PACKETS, 0, 6) == EVICTSIM_CAPTURE_OK);
  if (missing) {
    CHECK(capture.push(EVICTSIM_CAPTURE_BARE_PACKETS, 0, 6, {EVICTSIM_CAPTURE_K}) == EVICTSIM_CAPTURE_OK);
    CHECK(evictsim_capture_end_step(capture.engine.capture) == EVICTSIM_CAPTURE_WRONG_ORDER);
  } else {
    const float infinite = std::numeric_limits<float>::infinity();
    CHECK(capture.push(EVICTSIM_CAPTURE_BARE_PACKETS, 0, 6, all_roles, infinite) == EVICTSIM_CAPTURE_INVALID_VALUE);
    CHECK(evictsim_capture_end_step(capture.engine.capture) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(evictsim_capture_finish_request(capture.engine.capture, "r") == EVICTSIM_CAPTURE_OK);
  CHECK(capture.engine.counters().dropped_passes == 3);
  CHECK(capture.engine.counters().dropped_rows == 0);
  CHECK(std::string(evictsim_capture_last_loss(capture.engine.capture)).find("request r, ") == 0);
  const Reader reader = capture.close();
  CHECK(reader.sequences()[0].length == 12);
  CHECK_FALSE(reader.read_second_pass(0));
  CHECK_FALSE(reader.read_packets(0, PacketSet::bare));
  CHECK(reader.read_packets(0, PacketSet::wrapped).has_value());
  CHECK(reader.read_packet_layer(0, 0, PacketSet::wrapped).after_q.empty());
  CHECK(reader.header().extra.at("capture_dropped_passes") == "3");
}

TEST_CASE("rows behind documents end with the sequence") {
  Capture capture;
  capture.announce("r");
  capture.sequence("r");
  capture.rows("r", EVICTSIM_CAPTURE_BARE_PACKETS, 0, 6, all_roles);
  capture.rows("r", EVICTSIM_CAPTURE_BEHIND_BARE, 0, 9, all_roles);
  const Reader reader = capture.close();
  CHECK(reader.read_packet_layer(0, 1, PacketSet::bare).after_v.size() == 5U * heads_of_key * width);
}

TEST_CASE("requests of one step take their own rows of a pass, and others pass it over") {
  Capture capture("every=2");
  for (const char* request : {"a", "b", "c"}) {
    capture.announce(request);
    REQUIRE(capture.engine.step({{request, 10, 10}}) == EVICTSIM_CAPTURE_OK);
  }
  const std::array<evictsim_capture_rows, 3> ranges = {
      {{"c", 6, 5, 0, 0, nullptr}, {"b", 0, 1, 0, 0, nullptr}, {"a", 1, 5, 0, 0, nullptr}}};
  REQUIRE(evictsim_capture_begin_pass(capture.engine.capture, EVICTSIM_CAPTURE_SECOND_PASS, ranges.data(), 3) ==
          EVICTSIM_CAPTURE_OK);
  CHECK(capture.push(EVICTSIM_CAPTURE_SECOND_PASS, 1, 10, all_roles) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_end_step(capture.engine.capture) == EVICTSIM_CAPTURE_OK);
  const Reader reader = capture.close();
  REQUIRE(reader.sequences().size() == 2);
  for (const std::size_t index : {0U, 1U}) {
    const std::vector<float> q = reader.read_second_pass_queries(index, 2)->data;
    // The row of the tensor that is the third one of the request.
    const std::int64_t row = reader.sequences()[index].request_id == "a" ? 3 : 8;
    CHECK(q[2 * width + 5] == Capture::value(EVICTSIM_CAPTURE_SECOND_PASS, EVICTSIM_CAPTURE_Q, 2, row, 5));
  }
}

TEST_CASE("a discarded request leaves nothing, and is no loss") {
  Capture capture;
  capture.announce("gone");
  capture.sequence("gone");
  capture.rows("gone", EVICTSIM_CAPTURE_SECOND_PASS, 0, 5, all_roles);
  CHECK(evictsim_capture_discard_request(capture.engine.capture, "gone") == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_discard_request(capture.engine.capture, "never seen") == EVICTSIM_CAPTURE_OK);
  capture.engine.lengths.clear();
  capture.sequence("gone");
  CHECK(capture.engine.counters().dropped_rows == 0);
  CHECK(capture.engine.counters().rows == 12);
  CHECK(capture.engine.counters().skipped_requests == 1);
  const Reader reader = capture.close();
  REQUIRE(reader.sequences().size() == 1);
  CHECK_FALSE(reader.read_second_pass(0));
  CHECK(reader.header().dropped_rows == 0);
}

TEST_CASE("settings with any characters are kept, and one file may take the place of a directory") {
  Engine engine;
  fs::remove_all("single.h5");
  REQUIRE(engine.open("single.h5", "single_file=1\nshard_bytes=1") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_setting(engine.capture, "capture_request", "\n\nRepeat = this") == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_setting(engine.capture, "request", "x") == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(evictsim_capture_setting(engine.capture, "capture_request", nullptr) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  MadeTensor w_o(engine.hidden, 0, 32, Element::f32, Layout::compact,
                 [](std::int64_t row, std::int64_t column) { return static_cast<float>(row - column); });
  CHECK(evictsim_capture_weight(engine.capture, w_o.get(), EVICTSIM_CAPTURE_W_O, 1) == EVICTSIM_CAPTURE_OK);
  for (const char* request : {"a", "b", "c"}) CHECK(engine.run(request, 5, 2) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_setting(engine.capture, "capture_late", "x") == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_flush(engine.capture) == EVICTSIM_CAPTURE_OK);
  CHECK_FALSE(fs::exists("single.h5"));
  REQUIRE(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK_FALSE(fs::exists("manifest.jsonl"));
  fs::create_directories("elsewhere");
  fs::rename("single.h5", "elsewhere/single.h5");  // it stands alone
  CHECK(verify("elsewhere/single.h5").empty());
  const Reader reader("elsewhere/single.h5");
  CHECK(reader.sequences().size() == 3);
  CHECK(reader.header().extra.at("capture_request") == "\n\nRepeat = this");
  CHECK(reader.read_weight(1, LayerWeight::w_o)->data[32] == 1);
}

TEST_CASE("misuse of passes gets a status and a reason") {
  Capture capture;
  evictsim_capture* handle = capture.engine.capture;
  const auto reason = [] { return std::string(evictsim_capture_last_error()); };
  const std::array<evictsim_capture_packet, 2> overlap = {{{1, 4, 0, 0}, {3, 7, 0, 0}}};
  const auto packets = [&](int pass, const evictsim_capture_packet* list, std::size_t count) {
    return evictsim_capture_describe_packets(handle, "r", pass, list, count);
  };
  CHECK(packets(EVICTSIM_CAPTURE_SECOND_PASS, overlap.data(), 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(packets(EVICTSIM_CAPTURE_BARE_PACKETS, overlap.data(), 2) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(reason().find("apart") != std::string::npos);
  CHECK(packets(EVICTSIM_CAPTURE_BARE_PACKETS, overlap.data(), 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(packets(EVICTSIM_CAPTURE_BARE_PACKETS, nullptr, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  const auto second = [&](std::int32_t position, std::int32_t first, std::int32_t last, std::size_t rows = 1) {
    const std::array<std::int32_t, 2> chunk = {first, last};
    return evictsim_capture_describe_second_pass(handle, "r", &position, chunk.data(), rows);
  };
  CHECK(second(-1, 0, 4) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(second(10, 4, 3) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(second(10, 0, 4, 0) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(second(10, 0, 99) == EVICTSIM_CAPTURE_OK);  // how long the sequence becomes is not known yet
  CHECK(capture.begin("r", EVICTSIM_CAPTURE_SECOND_PASS, 0, 1) == EVICTSIM_CAPTURE_WRONG_ORDER);
  capture.sequence("r");
  CHECK(second(10, 0, 4) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(capture.begin("r", 0, 0, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(capture.begin("r", 6, 0, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(capture.begin("r", EVICTSIM_CAPTURE_BARE_PACKETS, 0, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(reason().find("announced") != std::string::npos);
  CHECK(capture.begin("r", EVICTSIM_CAPTURE_SECOND_PASS, 1, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(capture.begin("r", EVICTSIM_CAPTURE_SECOND_PASS, 0, 2) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  CHECK(capture.begin(nullptr, EVICTSIM_CAPTURE_SECOND_PASS, 0, 1) == EVICTSIM_CAPTURE_INVALID_ARGUMENT);
  capture.rows("r", EVICTSIM_CAPTURE_SECOND_PASS, 0, 1, all_roles);
  REQUIRE(capture.begin("r", EVICTSIM_CAPTURE_SECOND_PASS, 1, 0) == EVICTSIM_CAPTURE_OK);
  CHECK(capture.begin("r", EVICTSIM_CAPTURE_SECOND_PASS, 1, 0) == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_discard_request(handle, "r") == EVICTSIM_CAPTURE_WRONG_ORDER);
  CHECK(evictsim_capture_end_step(handle) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(handle, "r") == EVICTSIM_CAPTURE_OK);
  CHECK(std::string(evictsim_capture_last_loss(handle)).find("tokens that the sequence does not have") !=
        std::string::npos);
  CHECK_FALSE(capture.close().read_second_pass(0));
}

TEST_CASE("callers of version 1.0 go on as they were") {
  Capture capture("", 1U << 16);
  CHECK(capture.engine.run("r", 5, 2) == EVICTSIM_CAPTURE_OK);
  evictsim_capture_counters counters{};
  counters.struct_size = offsetof(evictsim_capture_counters, dropped_passes);
  counters.dropped_passes = 77;
  CHECK(evictsim_capture_get_counters(capture.engine.capture, &counters) == EVICTSIM_CAPTURE_OK);
  CHECK(counters.requests == 1);
  CHECK(counters.dropped_passes == 77);
  CHECK(capture.close().sequences().size() == 1);
}
