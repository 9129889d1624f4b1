// Are request traces of every format read as they are written, and is bad input refused with its line?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "traces/error.h"
#include "traces/workload/workload.h"

using namespace evictsim;
using Catch::Matchers::Contains;
using traces::Workload;
using traces::WorkloadFormat;

namespace {

std::filesystem::path sample(const std::string& name) {
  return std::filesystem::path(EVICTSIM_SOURCE_DIR) / "tests/unit/workloads" / name;
}

std::filesystem::path write(const std::string& name, const std::string& text) {
  std::filesystem::path path = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

Workload read(const std::string& text) { return traces::read_workload(write("workload", text)); }

std::string refused(const std::string& text) {
  try {
    read(text);
  } catch (const Error& error) {
    CHECK_THAT(error.what(), Contains("workload"));
    CHECK_THAT(error.what(), !Contains("\n"));
    return error.what();
  }
  return "nothing was refused";
}

}  // namespace

TEST_CASE("Azure") {
  const Workload workload = traces::read_workload(sample("azure_conversation.csv"));
  CHECK(workload.name == "azure_conversation.csv");
  CHECK(workload.format == WorkloadFormat::azure);
  REQUIRE(workload.requests.size() == 50);
  CHECK(workload.requests[0].arrival_seconds == 0);
  CHECK(workload.requests[0].prompt_tokens == 374);
  CHECK(workload.requests[0].output_tokens == 44);
  CHECK(workload.requests[0].prefix_blocks.empty());
  CHECK(workload.requests[1].arrival_seconds == Approx(4.314579).epsilon(1e-12));  // 50.9951690 - 46.6805900
}

TEST_CASE("dates over midnight, the end of February and time zones") {
  const auto seconds = [](const std::string& first, const std::string& second) {
    return read("TIMESTAMP,ContextTokens,GeneratedTokens\n" + first + ",1,1\n" + second + ",1,1\n")
        .requests[1]
        .arrival_seconds;
  };
  CHECK(seconds("2023-12-31 23:59:59.5", "2024-01-01 00:00:00") == 0.5);
  CHECK(seconds("2024-02-28 00:00:00", "2024-03-01T00:00:00Z") == 2 * 86400);
  CHECK(seconds("2023-02-28 00:00:00", "2023-03-01 00:00:00") == 86400);
  CHECK(seconds("2100-02-28 00:00:00", "2100-03-01 00:00:00") == 86400);
  CHECK(seconds("2024-05-12 12:00:00+02:00", "2024-05-12 11:00:00+00:00") == 3600);
  CHECK(seconds("1970-01-01 00:00:00", "2026-01-01 00:00:00") == 1767225600.0);
}

TEST_CASE("Mooncake") {
  const Workload workload = traces::read_workload(sample("mooncake_conversation.jsonl"));
  CHECK(workload.format == WorkloadFormat::mooncake);
  REQUIRE(workload.requests.size() == 50);
  const traces::WorkloadRequest& second = workload.requests[1];
  CHECK(second.prompt_tokens == 7322);
  CHECK(second.output_tokens == 490);
  CHECK(second.prefix_block_tokens == 512);
  CHECK(second.prefix_blocks == std::vector<std::uint64_t>{0, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27});
  const Workload later = read(R"({"timestamp": 1000, "input_length": 1, "output_length": 2}
{"timestamp": 1500.5, "input_length": 1, "output_length": 2, "hash_ids": []})");
  CHECK(later.requests[1].arrival_seconds == 0.5005);
  CHECK(later.requests[1].prefix_blocks.empty());
}

TEST_CASE("Qwen-Bailian's lines have seconds and blocks of 16 tokens") {
  const Workload workload = read(
      R"({"chat_id": 7, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 33, "output_length": 10, "type": "text", "turn": 1, "hash_ids": [5, 6, 18446744073709551615]}
{"chat_id": 8, "parent_chat_id": 7, "timestamp": 62.0, "input_length": 40, "output_length": 1, "type": "text", "turn": 2, "hash_ids": [5]})");
  CHECK(workload.format == WorkloadFormat::qwen_bailian);
  CHECK(workload.requests[0].prefix_block_tokens == 16);
  CHECK(workload.requests[0].prefix_blocks == std::vector<std::uint64_t>{5, 6, 0xffffffffffffffffU});
  CHECK(workload.requests[1].arrival_seconds == Approx(0.886).epsilon(1e-12));
}

TEST_CASE("BurstGPT, with and without sessions and failures") {
  const Workload old = traces::read_workload(sample("burst_gpt_1.csv"));
  CHECK(old.format == WorkloadFormat::burst_gpt);
  REQUIRE(old.requests.size() == 3);
  CHECK(old.requests[1].arrival_seconds == 40);
  CHECK(old.requests[1].prompt_tokens == 1087);
  CHECK(old.requests[1].output_tokens == 230);
  CHECK(old.requests[1].session == 0);
  const Workload sessions = traces::read_workload(sample("burst_gpt_3.csv"));
  REQUIRE(sessions.requests.size() == 4);
  CHECK(sessions.requests[3].session == 4);
  CHECK(sessions.requests[3].arrival_seconds == 144);
  const Workload failed = read(
      "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      "1,,1,GPT-4,0,0,0,API log\n2,,1,GPT-4,3,4,7,API log\n3,a,1,GPT-4,5,0,5,API log\n4,a,1,GPT-4,5,6,5,API log\n");
  CHECK(failed.failed == 2);
  REQUIRE(failed.requests.size() == 2);
  CHECK(failed.requests[0].arrival_seconds == 0);
  CHECK(failed.requests[0].session == 0);
  CHECK(failed.requests[1].session == 1);
}

TEST_CASE("LLMServingSim, both ways") {
  const Workload csv = traces::read_workload(sample("llmservingsim.csv"));
  CHECK(csv.format == WorkloadFormat::llmservingsim);
  REQUIRE(csv.requests.size() == 50);
  CHECK(csv.requests[1].arrival_seconds == Approx(0.301012143).epsilon(1e-15));  // 347938951 - 46926808 ns
  CHECK(csv.requests[1].prompt_tokens == 1034);
  CHECK(csv.requests[1].output_tokens == 769);
  const Workload json = traces::read_workload(sample("llmservingsim.jsonl"));
  CHECK(json.format == WorkloadFormat::llmservingsim);
  REQUIRE(json.requests.size() == 50);
  CHECK(json.requests[1].arrival_seconds == Approx(0.042833).epsilon(1e-15));
  CHECK(json.requests[1].prompt_tokens == 1390);
}

TEST_CASE("plain CSV by name and by place") {
  const Workload named = read(
      "\xef\xbb\xbf\"Output_Tokens\", session ,prompt_tokens,arrival_ns\r\n5,a,7,1000000000\r\n\r\n6,b,8,1500000000\r\n"
      "1,a,2,1500000000\n");
  CHECK(named.format == WorkloadFormat::csv);
  REQUIRE(named.requests.size() == 3);
  CHECK(named.requests[0].prompt_tokens == 7);
  CHECK(named.requests[0].output_tokens == 5);
  CHECK(named.requests[1].arrival_seconds == 0.5);
  CHECK(named.requests[1].session == 2);
  CHECK(named.requests[2].session == 1);
  const Workload placed = read("0.25,10,20\n0.75,30,40\n");
  REQUIRE(placed.requests.size() == 2);
  CHECK(placed.requests[1].arrival_seconds == 0.5);
  CHECK(placed.requests[1].prompt_tokens == 30);
  CHECK(read("0,1,2,0\n").requests[0].session == 1);
}

TEST_CASE("lengths without times") {
  const auto lengths = [](const std::string& text) { return traces::read_lengths(write("workload", text)); };
  const auto named = lengths("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n");
  REQUIRE(named.size() == 1);
  CHECK(named[0].prompt_tokens == 3772);
  CHECK(named[0].output_tokens == 54);
  CHECK(lengths("3,4\n5,6\n")[1].output_tokens == 6);
  CHECK(lengths("9,3,4\n1,5,6\n")[1].prompt_tokens == 5);  // times do not matter, and may go back
  CHECK(traces::read_lengths(sample("azure_conversation.csv")).size() == 50);
  CHECK_THROWS_WITH(lengths("3,0\n"), Contains("line 1") && Contains("output = 0"));
}

TEST_CASE("bad CSV") {
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  CHECK_THAT(refused(""), Contains("is empty"));
  CHECK_THAT(refused("\n \n"), Contains("is empty"));
  CHECK_THAT(refused(header), Contains("holds no requests"));
  CHECK_THAT(refused("one,two,three\n1,2,3\n"), Contains("line 1") && Contains("no known format") && Contains("one"));
  CHECK_THAT(refused("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"),
             Contains("column = NumImages") && Contains("line 1"));
  CHECK_THAT(refused("timestamp,prompt\n"), Contains("missing column = output_tokens"));
  CHECK_THAT(refused("time,timestamp,prompt,output\n"), Contains("means the same as time"));
  CHECK_THAT(refused("1,2\n"), Contains("columns = 2"));
  CHECK_THAT(refused(header + "5,1,1\n-3,1,1\n"), Contains("line 3") && Contains("not negative"));
  CHECK_THAT(refused(header + "5,1,1\n4.999,1,1\n"), Contains("line 3") && Contains("earlier than"));
  CHECK_THAT(refused(header + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45.9,1,1\n"), Contains("line 3"));
  CHECK_THAT(refused(header + "2023-13-16 18:15:46,1,1\n"), Contains("line 2") && Contains("expected a time"));
  CHECK_THAT(refused(header + "2023-11-16 18:15:46 or so,1,1\n"), Contains("line 2") && Contains("expected a time"));
  CHECK_THAT(refused(header + "nan,1,1\n"), Contains("line 2") && Contains("expected a time"));
  CHECK_THAT(refused(header + "1e300,1,1\n"), Contains("line 2") && Contains("expected a time"));
  CHECK_THAT(refused(header + "1,0,1\n"), Contains("line 2") && Contains("ContextTokens = 0"));
  CHECK_THAT(refused(header + "1,1,-4\n"), Contains("GeneratedTokens = -4"));
  CHECK_THAT(refused(header + "1,1,1.5\n"), Contains("GeneratedTokens = 1.5"));
  CHECK_THAT(refused(header + "1,1,99999999999\n"), Contains("GeneratedTokens = 99999999999"));
  CHECK_THAT(refused(header + "1,1,99999999999999999999999\n"), Contains("whole number"));
  CHECK_THAT(refused(header + "1,1\n"), Contains("line 2") && Contains("columns = 2"));
  CHECK_THROWS_WITH(traces::read_workload("nowhere.csv"), Contains("nowhere.csv"));
}

TEST_CASE("bad JSON lines") {
  const std::string good = R"({"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]})";
  CHECK_THAT(refused(good + "\n{\"timestamp\": 6"), Contains("line 2") && Contains("not JSON"));
  CHECK_THAT(refused(good + "\n[1]"), Contains("line 2") && Contains("object"));
  CHECK_THAT(refused("{\"question\": 1}"), Contains("line 1") && Contains("no known format"));
  const auto with = [&](const std::string& line) { return refused(good + "\n" + line); };
  CHECK_THAT(with(R"({"timestamp": 4, "input_length": 1, "output_length": 1})"), Contains("earlier than"));
  CHECK_THAT(with(R"({"timestamp": -1, "input_length": 1, "output_length": 1})"), Contains("not negative"));
  CHECK_THAT(with(R"({"timestamp": "6", "input_length": 1, "output_length": 1})"), Contains("expected a time"));
  CHECK_THAT(with(R"({"input_length": 1, "output_length": 1})"), Contains("timestamp: is missing"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 1})"), Contains("output_length: is missing"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 0, "output_length": 1})"), Contains("input_length = 0"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 1, "output_length": [1]})"), Contains("output_length = array"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 1, "output_length": 1, "delay": 3})"), Contains("field = delay"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 512, "output_length": 1, "hash_ids": [1, 2]})"),
             Contains("more blocks of 512 tokens"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 9, "output_length": 1, "hash_ids": 7})"), Contains("list"));
  CHECK_THAT(with(R"({"timestamp": 6, "input_length": 9, "output_length": 1, "hash_ids": [1.5]})"), Contains("1.5"));
}
