// Are block traces read as they are written, and is damage named with its place?
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "traces/blocks/block_trace.h"
#include "traces/error.h"

using namespace evictsim;
using Catch::Matchers::Contains;
using traces::BlockTrace;
using traces::BlockTraceFormat;
using traces::Object;

namespace {

std::filesystem::path write(const std::string& name, const std::string& text) {
  std::filesystem::path path = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

BlockTrace read(const std::string& name, const std::string& text) {
  return traces::read_block_trace(write(name, text));
}

std::string refused(const std::string& name, const std::string& text) {
  try {
    read(name, text);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

template <typename Integer>
std::string bytes(Integer value) {
  std::string text(sizeof value, '\0');
  std::memcpy(text.data(), &value, sizeof value);
  return text;
}

std::string record(std::uint32_t time, std::uint64_t object, std::uint32_t size) {
  return bytes(time) + bytes(object) + bytes(size) + bytes(std::int64_t{-1});
}

using Objects = std::vector<Object>;

}  // namespace

TEST_CASE("Mooncake requests are looked up whole and referenced from the last block to the first") {
  const std::string text =
      "{\"timestamp\": 0, \"input_length\": 1500, \"output_length\": 3, \"hash_ids\": [46, 47, 48]}\n"
      "\n"
      "{\"timestamp\": 10, \"hash_ids\": []}\n"
      "{\"timestamp\": 10, \"hash_ids\": [46, 18446744073709551615]}\r\n"
      "{\"hash_ids\": [-1]}";
  const BlockTrace trace = read("requests.jsonl", text);
  CHECK(trace.name == "requests.jsonl");
  CHECK(trace.references == Objects{2, 1, 0, 3, 0, 3});
  CHECK(trace.request_ends == std::vector<std::size_t>{3, 5, 6});
  CHECK(trace.objects == 4);
  CHECK(trace.sizes.empty());
  const BlockTrace blocks =
      traces::read_block_trace(write("requests.txt", text), BlockTraceFormat::mooncake, traces::BlockLookup::block);
  CHECK(blocks.references == Objects{0, 1, 2, 0, 3, 3});
  CHECK(blocks.request_ends.empty());
}

TEST_CASE("damaged Mooncake lines are named") {
  const std::string good = "{\"timestamp\": 5, \"hash_ids\": [1]}\n";
  CHECK_THAT(refused("a.jsonl", good + "{\"timestamp\": 6, \"hash_ids\": [1"),
             Contains("line 2") && Contains("not JSON"));
  CHECK_THAT(refused("a.jsonl", good + "[1]"), Contains("line 2") && Contains("object"));
  CHECK_THAT(refused("a.jsonl", good + "{\"timestamp\": 6}"), Contains("line 2") && Contains("hash_ids"));
  CHECK_THAT(refused("a.jsonl", good + "{\"hash_ids\": 3}"), Contains("line 2") && Contains("list"));
  CHECK_THAT(refused("a.jsonl", good + "{\"hash_ids\": [1.5]}"), Contains("line 2") && Contains("1.5"));
  CHECK_THAT(refused("a.jsonl", good + "{\"timestamp\": 4, \"hash_ids\": [1]}"),
             Contains("line 2") && Contains("go back"));
  CHECK_THAT(refused("a.jsonl", "{\"timestamp\": -4, \"hash_ids\": [1]}"), Contains("line 1") && Contains("negative"));
  CHECK_THAT(refused("a.jsonl", "{\"timestamp\": \"x\", \"hash_ids\": [1]}"), Contains("line 1") && Contains("number"));
  CHECK_THAT(refused("a.jsonl", "{\"hash_ids\": [" + std::string(100000, '[') + std::string(100000, ']') + "]}"),
             Contains("line 1") && Contains("array"));
  CHECK_THAT(refused("a.jsonl", ""), Contains("no references"));
  CHECK_THAT(refused("a.jsonl", "{\"hash_ids\": []}"), Contains("no references"));
}

TEST_CASE("CSV with and without a header, with and without sizes") {
  const BlockTrace plain = read("plain.csv", "0,7\n0.5,8\n1,7\n");
  CHECK(plain.references == Objects{0, 1, 0});
  CHECK(plain.sizes.empty());
  CHECK(plain.objects == 2);
  const BlockTrace sized = read("sized.csv", "1, 7, 10\r\n2, a, 20\r\n2,07,30\r\n3,\"a\",20\r\n");
  CHECK(sized.references == Objects{0, 1, 2, 1});
  CHECK(sized.sizes == std::vector<std::uint64_t>{10, 20, 30, 20});
  const BlockTrace named = read("named.csv", "\xef\xbb\xbfobject,op,size,time\nx,get,5,0\ny,get,6,1\nx,put,5,1\n");
  CHECK(named.references == Objects{0, 1, 0});
  CHECK(named.sizes == std::vector<std::uint64_t>{5, 6, 5});
}

TEST_CASE("damaged CSV lines are named") {
  CHECK_THAT(refused("a.csv", "time,objekt\n0,1\n"), Contains("line 1") && Contains("object"));
  CHECK_THAT(refused("a.csv", "time,object\n0,1\n-1,1\n"), Contains("line 3") && Contains("negative"));
  CHECK_THAT(refused("a.csv", "time,object\n5,1\n4,1\n"), Contains("line 3") && Contains("go back"));
  CHECK_THAT(refused("a.csv", "time,object\nx,1\n"), Contains("line 2") && Contains("number"));
  CHECK_THAT(refused("a.csv", "time,object\nnan,1\n"), Contains("line 2") && Contains("number"));
  CHECK_THAT(refused("a.csv", "0,1\n0\n"), Contains("line 2") && Contains("columns"));
  CHECK_THAT(refused("a.csv", "0,1\n0,\n"), Contains("line 2") && Contains("object"));
  CHECK_THAT(refused("a.csv", "0\n"), Contains("line 1") && Contains("time,object"));
  CHECK_THAT(refused("a.csv", "0,1,0\n"), Contains("line 1") && Contains("size"));
  CHECK_THAT(refused("a.csv", "0,1,-3\n"), Contains("line 1") && Contains("size"));
  CHECK_THAT(refused("a.csv", "time,object\n"), Contains("no references"));
}

TEST_CASE("oracleGeneral records") {
  const std::string text = record(1, 900, 10) + record(1, std::uint64_t{1} << 40U, 20) + record(4, 900, 10);
  for (const char* name : {"a.oracleGeneral", "a.bin"}) {
    const BlockTrace trace = read(name, text);
    CHECK(trace.references == Objects{0, 1, 0});
    CHECK(trace.sizes == std::vector<std::uint64_t>{10, 20, 10});
    CHECK(trace.objects == 2);
  }
  CHECK_THAT(refused("a.bin", text.substr(0, text.size() - 1)), Contains("record 3") && Contains("cut off"));
  CHECK_THAT(refused("a.bin", text + record(3, 1, 1)), Contains("record 4") && Contains("go back"));
  CHECK_THAT(refused("a.bin", text + record(4, 1, 0)), Contains("record 4") && Contains("size"));
  CHECK_THAT(refused("a.bin", ""), Contains("no references"));
}

TEST_CASE("many objects keep their numbers while the table grows") {
  std::string text;
  constexpr std::uint32_t objects = 30000;
  for (std::uint32_t round = 0; round < 2; ++round) {
    for (std::uint32_t object = 0; object < objects; ++object) {
      // Names that differ in their high bits only, and in their low ones only.
      text += record(round, object % 2 == 0 ? std::uint64_t{object} << 40U : object, 1);
    }
  }
  const BlockTrace trace = read("many.bin", text);
  REQUIRE(trace.objects == objects);
  bool in_order = true;
  for (std::size_t i = 0; i < trace.references.size(); ++i) in_order &= trace.references[i] == i % objects;
  CHECK(in_order);
}

TEST_CASE("a file that is not there, or has no format") {
  CHECK_THROWS_AS(traces::read_block_trace("nowhere.csv"), Error);
  CHECK_THAT(refused("a.dat", "0,1\n"), Contains("format"));
  CHECK(traces::read_block_trace(write("a.dat", "0,1\n"), BlockTraceFormat::csv).objects == 1);
}
