// Do sealed shards survive whatever happens to the process, the disk and the directory, and does the engine hear of it?
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/capture_engine.h"
#include "traces/hdf5_handle.h"
#include "traces/manifest.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim::traces;
using namespace evictsim::traces::capture::test;
namespace fs = std::filesystem;

namespace {

/// Runs `work` in a child process; its result is the exit status. A child that hangs is killed: -1.
int in_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    std::exit(work());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::size_t manifest_lines(const fs::path& directory) {
  return fs::exists(directory / manifest_name) ? read_manifest(directory).shards.size() : 0;
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string faults(const fs::path& directory) {
  std::string lines;
  for (const Fault& fault : verify(directory)) lines += fault.line + "\n";
  return lines;
}

/// An engine whose rows fill chunks: 2048 rows of k, 1024 of q.
Engine wide_engine() {
  Engine engine;
  engine.head_dim = 64;
  engine.layers = 2;
  return engine;
}

/// A directory that everybody may look into, for a child that gives up root's rights.
fs::path public_directory() {
  std::string path = (fs::temp_directory_path() / "evictsim-sink-XXXXXX").string();
  REQUIRE(::mkdtemp(path.data()) != nullptr);
  ::chmod(path.c_str(), 0777);
  return path;
}

/// Captures for ever; after each sealed batch of requests its size goes to `report`.
[[noreturn]] void capture_until_killed(const std::string& directory, int round, int report) {
  Engine engine;
  if (engine.open(directory, "threads=2\nqueue=1MiB\nshard_bytes=200KiB") != EVICTSIM_CAPTURE_OK ||
      engine.model() != EVICTSIM_CAPTURE_OK) {
    std::_Exit(3);
  }
  MadeTensor w_o(engine.hidden, 0, std::int64_t{engine.query_heads} * engine.head_dim, Element::f32, Layout::compact,
                 [](std::int64_t row, std::int64_t column) { return static_cast<float>(row - column); });
  if (evictsim_capture_weight(engine.capture, w_o.get(), EVICTSIM_CAPTURE_W_O, 0) != EVICTSIM_CAPTURE_OK) std::_Exit(7);
  for (std::int32_t i = 0;; ++i) {
    const std::string request = std::to_string(round) + "-" + std::to_string(i);
    if (engine.run(request, 200 + i % 7, 5) != EVICTSIM_CAPTURE_OK) std::_Exit(4);
    if (i % 3 != 2) continue;
    if (evictsim_capture_flush(engine.capture) != EVICTSIM_CAPTURE_OK) std::_Exit(5);
    const std::int32_t sealed = i + 1;
    if (::write(report, &sealed, sizeof sealed) != sizeof sealed) std::_Exit(6);
  }
}

/// Kills a capture `rounds` times at random moments of its work, each time in the directory of the one before.
void kill_and_resume(int rounds) {
  std::mt19937 random(20240607);
  std::uniform_int_distribution<int> moment(0, 60000);
  std::set<std::string> sealed;
  for (int round = 0; round < rounds; ++round) {
    if (round % 10 == 0) {
      fs::remove_all("killed");
      fs::create_directory("killed");
      sealed.clear();
    }
    int report[2];
    REQUIRE(::pipe(report) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(report[0]);
      capture_until_killed("killed", round, report[1]);
    }
    ::close(report[1]);
    const auto note = [&](std::int32_t count) {
      for (std::int32_t i = 0; i < count; ++i) sealed.insert(std::to_string(round) + "-" + std::to_string(i));
    };
    std::int32_t count = 0;
    // Every other time at any moment, else behind the first sealed shard.
    if (round % 2 == 0 && ::read(report[0], &count, sizeof count) == sizeof count) note(count);
    std::this_thread::sleep_for(std::chrono::microseconds(moment(random)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    INFO("round " << round);
    CHECK(WIFSIGNALED(status));
    while (::read(report[0], &count, sizeof count) == sizeof count) note(count);
    ::close(report[0]);
    if (manifest_lines("killed") == 0) {
      CHECK(sealed.empty());
      continue;
    }
    // Every shard of the manifest is whole, and every request that was sealed is in one of them.
    CHECK(faults("killed") == "");
    std::set<std::string> found;
    for (const Reader& reader : open_traces({"killed"})) {
      for (const SequenceInfo& info : reader.sequences()) found.insert(info.request_id.value());
    }
    CHECK(std::includes(found.begin(), found.end(), sealed.begin(), sealed.end()));
  }
  // A capture that ends by itself leaves nothing but shards, the manifest, and the weights that all rounds share.
  Engine engine;
  REQUIRE(engine.open("killed", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("last", 20, 2) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults("killed") == "");
  CHECK(names_in("killed").size() == manifest_lines("killed") + read_manifest("killed").model_records.size() + 1);
  CHECK(read_manifest("killed").model_records.size() == 1);
}

}  // namespace

TEST_CASE("a killed capture loses at most what was not sealed") { kill_and_resume(20); }

TEST_CASE("a capture that is killed two hundred times loses at most what was not sealed", "[.][slow]") {
  kill_and_resume(200);
}

TEST_CASE("resuming repairs what a crash can leave") {
  fs::remove_all("left");
  for (int round = 0; round < 2; ++round) {
    Engine engine;
    REQUIRE(engine.open("left", "") == EVICTSIM_CAPTURE_OK);
    REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
    CHECK(engine.run("r", 12, 1) == EVICTSIM_CAPTURE_OK);
    CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  }
  std::ifstream stream("left/manifest.jsonl");
  std::string first, second;
  std::getline(stream, first);
  std::getline(stream, second);
  SECTION("a line that was not written to its end, its shard sealed") {
    std::ofstream("left/manifest.jsonl") << first << "\n" << second.substr(0, 20);
    CHECK_THROWS(read_manifest("left"));
  }
  SECTION("no line at all, and an unsealed file") {
    CHECK(fs::remove("left/manifest.jsonl"));
    std::ofstream("left/.shard-000007.h5.1-0.partial") << "half";
    std::ofstream("left/.weights.1-0.partial") << "half";
  }
  Engine engine;
  REQUIRE(engine.open("left", "") == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(names_in("left") == std::vector<std::string>{"manifest.jsonl", "shard-000000.h5", "shard-000001.h5"});
  CHECK(manifest_lines("left") == 2);
  CHECK(faults("left") == "");
}

TEST_CASE("resuming refuses a directory whose sealed shards are not whole") {
  fs::remove_all("damaged");
  Engine engine;
  REQUIRE(engine.open("damaged", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("r", 12, 1) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  SECTION("missing") {
    fs::remove("damaged/shard-000000.h5");
    CHECK(engine.open("damaged", "") == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
  }
  SECTION("altered") {
    std::ofstream("damaged/shard-000000.h5", std::ios::app) << "x";
    CHECK(engine.open("damaged", "") == EVICTSIM_CAPTURE_IO_FAILURE);
  }
  CHECK(std::string(evictsim_capture_last_error()).find("shard-000000.h5") != std::string::npos);
}

TEST_CASE("a full disk ends the capture with a status and leaves sealed shards whole") {
  const std::string options = GENERATE("", "queue=1\nthreads=1", "when_full=drop");
  fs::remove_all("full");
  const int result = in_child([&] {
    // The limit on file sizes stands for the end of the disk: writes beyond it fail as they would there.
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{400 << 10, 400 << 10};
    Engine engine = wide_engine();
    if (engine.open("full", options) != EVICTSIM_CAPTURE_OK || engine.model() != EVICTSIM_CAPTURE_OK) return 1;
    if (engine.run("small", 50, 2) != EVICTSIM_CAPTURE_OK) return 2;
    if (evictsim_capture_flush(engine.capture) != EVICTSIM_CAPTURE_OK) return 3;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::int32_t status = EVICTSIM_CAPTURE_OK;
    for (int i = 0; i < 20 && status == EVICTSIM_CAPTURE_OK; ++i)
      status = engine.run("big " + std::to_string(i), 6000, 1);
    const std::int32_t closed = engine.close();
    if (status == EVICTSIM_CAPTURE_OK) status = closed;
    return status == EVICTSIM_CAPTURE_IO_FAILURE && closed == EVICTSIM_CAPTURE_IO_FAILURE ? 0 : 10 + status;
  });
  CHECK(result == 0);
  CHECK(faults("full") == "");
  CHECK(names_in("full") == std::vector<std::string>{"manifest.jsonl", "shard-000000.h5"});
}

TEST_CASE("a directory without the right to write is refused, before and during a capture") {
  const fs::path parent = public_directory();
  const int result = in_child([&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) return 1;
    const fs::path before = parent / "before", during = parent / "during";
    fs::create_directory(before);
    ::chmod(before.c_str(), 0555);
    Engine engine = wide_engine();
    if (engine.open(before, "") != EVICTSIM_CAPTURE_PERMISSION_DENIED) return 2;
    if (engine.open(during, "") != EVICTSIM_CAPTURE_OK || engine.model() != EVICTSIM_CAPTURE_OK) return 3;
    if (engine.run("first", 50, 2) != EVICTSIM_CAPTURE_OK) return 4;
    if (evictsim_capture_flush(engine.capture) != EVICTSIM_CAPTURE_OK) return 5;
    ::chmod(during.c_str(), 0555);
    if (engine.run("second", 50, 2) != EVICTSIM_CAPTURE_PERMISSION_DENIED) return 6;
    ::chmod(during.c_str(), 0755);
    // Nothing was lost but that request: the next one finds a shard.
    if (engine.run("third", 50, 2) != EVICTSIM_CAPTURE_OK) return 7;
    return engine.close() == EVICTSIM_CAPTURE_OK ? 0 : 8;
  });
  CHECK(result == 0);
  CHECK(faults(parent / "during") == "");
  CHECK(manifest_lines(parent / "during") == 2);
  fs::remove_all(parent);
}

TEST_CASE("a directory that is removed during a capture ends it with a status") {
  fs::remove_all("removed");
  Engine engine = wide_engine();
  REQUIRE(engine.open("removed", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"r", 50, 50}}) == EVICTSIM_CAPTURE_OK);
  fs::remove_all("removed");
  CHECK(engine.step({{"r", 1, 50}}) == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(engine.capture, "r") == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_flush(engine.capture) == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
  CHECK(engine.step({{"s", 50, 50}}) == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
  CHECK(engine.close() == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
}

TEST_CASE("rows that find the queue full are counted, and the sequence ends before them") {
  fs::remove_all("dropping");
  Engine engine = wide_engine();
  REQUIRE(engine.open("dropping", "when_full=drop\nqueue=1\nthreads=2") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.step({{"decoding", 500, 500}, {"prompt", 100, 1400}}) == EVICTSIM_CAPTURE_OK);
  {
    // No writer gets anything done while this thread holds the lock on HDF5.
    const hdf5::Guard stalled;
    for (int i = 0; i < 30; ++i)
      CHECK(engine.step({{"decoding", 20, 500}, {"prompt", 40, 1400}}) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(evictsim_capture_finish_request(engine.capture, "decoding") == EVICTSIM_CAPTURE_OK);
  CHECK(evictsim_capture_finish_request(engine.capture, "prompt") == EVICTSIM_CAPTURE_OK);
  const evictsim_capture_counters counters = engine.counters();
  CHECK(counters.rows == 1100 + 1300);
  CHECK(counters.waits == 0);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults("dropping") == "");
  const Reader reader = std::move(open_traces({"dropping"}).at(0));
  // One chunk was taken, so the first of the other streams to be full ended its request: after 1024 rows of q.
  REQUIRE(reader.sequences().size() == 1);
  CHECK(reader.sequences()[0].request_id == "decoding");
  CHECK(reader.sequences()[0].length == 1024);
  CHECK(counters.dropped_requests == 1);
  CHECK(counters.dropped_rows == 1100 - 1024 + 1300);
  CHECK(reader.header().dropped_rows == static_cast<std::int64_t>(counters.dropped_rows));
  for (const int layer : {0, 1}) {
    const LayerTensors tensors = reader.read_layer(0, layer);
    CHECK(tensors.q_rows.size() == 1024);
    CHECK(tensors.k[1023 * 64 + 5] == engine_value("decoding", EVICTSIM_CAPTURE_K, layer, 1023, 5));
  }
}

TEST_CASE("slow writers hold the engine back and lose nothing") {
  fs::remove_all("blocking");
  Engine engine = wide_engine();
  REQUIRE(engine.open("blocking", "when_full=block\nqueue=1\nthreads=1") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  std::atomic<bool> done{false};
  std::thread disk([&] {
    while (!done) {
      const hdf5::Guard slow;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  CHECK(engine.run("long", 5000, 2) == EVICTSIM_CAPTURE_OK);
  const evictsim_capture_counters counters = engine.counters();
  done = true;
  disk.join();
  CHECK(counters.waits > 0);
  CHECK(counters.wait_seconds > 0);
  CHECK(counters.dropped_rows == 0);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults("blocking") == "");
  CHECK(open_traces({"blocking"}).at(0).sequences()[0].length == 5002);
}

TEST_CASE("a child process does not get at its parent's capture") {
  fs::remove_all("forked");
  Engine engine;
  REQUIRE(engine.open("forked", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(in_child([&] {
          const std::int32_t status = engine.run("child", 5, 0);
          std::_Exit(status == EVICTSIM_CAPTURE_WRONG_ORDER ? 0 : 1);
          return 0;
        }) == 0);
  CHECK(engine.run("parent", 5, 0) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(faults("forked") == "");
}
