// Does evictsim-capture, called as a user calls it, write a trace, and answer mistakes with one line and the right
// status?

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/capture/capture_program.h"
#include "tests/capture/tiny_model.h"
#include "traces/reader.h"
#include "traces/verify.h"

namespace evictsim::tests {
namespace {

namespace fs = std::filesystem;

void prepare() {
  static const TinyWeights weights = write_tiny_model("tiny.gguf", {});
  std::ofstream("prompt.txt") << "Thereisasilverheron,andtherestisprose.";
  std::ofstream("answer.txt") << "silver";
  std::ofstream("ids.txt") << "5 6 7\n8\n";
  std::ofstream("words.txt") << "5 six";
  std::ofstream("prompts.jsonl") << R"({"prompt": "Thereisasilverheron", "id": "heron", "spans": ["evidence=silver"]})"
                                 << "\n\n"
                                 << R"({"prompt": "too much", "decode": 500})"
                                 << "\n"
                                 << R"({"prompt_tokens": [5, 6, 7], "task": "ids"})"
                                 << "\n";
  std::ofstream("range.jsonl") << R"({"prompt": "again", "second_pass_range": [0, 3]})"
                               << "\n";
}

}  // namespace

TEST_CASE("run writes the trace that its options describe") {
  prepare();
  const Outcome outcome = run_capture(
      "run --model tiny.gguf --prompt prompt.txt --continuation answer.txt --layers 0,2 --q-rows window:8+decode "
      "--q-all-layers 2 "
      "--dtype bf16 --span evidence=silverheron --span question=tokens:1:3 --task find --store-text --x --ubatch 16 "
      "--cache-type f32 --flash-attention off -o out.h5");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.output, Catch::Contains("38 prompt + 6 decode tokens") && Catch::Contains("decoded: silver") &&
                                 Catch::Contains("largest relative error"));
  const traces::Reader reader("out.h5");
  CHECK(reader.header().layers == std::vector<int>{0, 2});
  CHECK(reader.header().extra.at("capture_ubatch") == "16");
  CHECK(reader.stored_type(0, 0) == traces::TensorType::bfloat16);
  CHECK(reader.query_rows(0, 0).size() == 14);
  CHECK(reader.query_rows(0, 2).size() == 44);
  CHECK(reader.has_hidden(0, 2));
  const traces::SequenceInfo& sequence = reader.sequences().at(0);
  CHECK(sequence.task == "find");
  CHECK(sequence.text == "Thereisasilverheron,andtherestisprose.");
  CHECK(sequence.spans.at("evidence") == std::vector<traces::Span>{{8, 19}});
  CHECK(sequence.spans.at("question") == std::vector<traces::Span>{{1, 3}});
}

TEST_CASE("run records a second pass and documents alone when asked") {
  prepare();
  const Outcome outcome = run_capture(
      "run --model tiny.gguf --prompt prompt.txt --decode 3 --ignore-end --second-pass --second-pass-chunk 16 "
      "--second-pass-range 2:30 --repeat-prompt Again --repeat-next tokens:9 --repeat-tail 2 "
      "--span document=tokens:4:20 --span document=tokens:20:31 --packets --packet-header AB --packet-trailer tokens:7 "
      "-o passes.h5");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const traces::Reader reader("passes.h5");
  const traces::SecondPass rows = reader.read_second_pass(0).value();
  CHECK(rows.chunk.size() == 5 + 16 + 1 + 2 + 12);
  CHECK(rows.chunk.front() == traces::Span{2, 18});
  CHECK(rows.chunk.back() == traces::Span{18, 30});
  CHECK(reader.read_packets(0, traces::PacketSet::bare) == traces::Packets{{{4, 20}}, {{20, 31}}});
  CHECK(reader.read_packets(0, traces::PacketSet::wrapped) == traces::Packets{{{4, 20}, 2, 1}, {{20, 31}, 2, 1}});
  CHECK(reader.header().extra.at("capture_packet_header") == "AB");
}

TEST_CASE("many prompts become shards, and a second run goes on") {
  prepare();
  fs::remove_all("batch");
  const std::string arguments = "run --model tiny.gguf --prompts prompts.jsonl --decode 4 --ignore-end -o batch/";
  const Outcome outcome = run_capture(arguments);
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.output, Catch::Contains("heron: 19 prompt + 4 decode tokens") &&
                                 Catch::Contains("prompts.jsonl line 3, line-000003: ") &&
                                 Catch::Contains("context of 256") &&
                                 Catch::Contains("2 recorded, 0 skipped, 1 failed; 1 new shard") &&
                                 Catch::Contains("largest relative error"));
  CHECK(traces::verify("batch").empty());
  const std::vector<traces::Reader> readers = traces::open_traces({"batch"});
  REQUIRE(readers.size() == 1);
  REQUIRE(readers[0].sequences().size() == 2);
  CHECK(readers[0].sequences()[0].spans.at("evidence") == std::vector<traces::Span>{{8, 14}});
  CHECK(readers[0].sequences()[1].request_id == "line-000004");
  CHECK(readers[0].sequences()[1].task == "ids");
  const Outcome again = run_capture(arguments);
  CHECK(again.status == 1);
  CHECK_THAT(again.output, Catch::Contains("heron: recorded before, skipped") &&
                               Catch::Contains("0 recorded, 2 skipped, 1 failed; 0 new shards"));
  const Outcome one = run_capture("run --model tiny.gguf --prompt prompt.txt --id more --decode 2 -o batch");
  INFO(one.output);
  CHECK(one.status == 0);
  CHECK(traces::open_traces({"batch"}).size() == 2);
}

TEST_CASE("a line's part of a second pass without one is an error of that line") {
  prepare();
  fs::remove_all("range");
  const Outcome outcome = run_capture("run --model tiny.gguf --prompts range.jsonl --decode 2 -o range/");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.output, Catch::Contains("range.jsonl line 1") && Catch::Contains("add --second-pass"));
}

TEST_CASE("token ids stand in for text") {
  prepare();
  REQUIRE(run_capture("run --model tiny.gguf --prompt-tokens ids.txt --continuation-tokens ids.txt -o ids.h5").status ==
          0);
  CHECK(traces::Reader("ids.h5").read_channel(0, traces::Channel::token_ids)->data ==
        std::vector<float>{5, 6, 7, 8, 5, 6, 7, 8});
}

TEST_CASE("mistakes get one line and exit status 1") {
  prepare();
  const auto [arguments, reason] = GENERATE(table<std::string, std::string>(
      {{"--model absent.gguf --prompt prompt.txt", "absent.gguf"},
       {"--model prompt.txt --prompt prompt.txt", "not a GGUF file"},
       {"--model tiny.gguf --prompt absent.txt", "absent.txt"},
       {"--model tiny.gguf --prompt .", "directory"},
       {"--model tiny.gguf --prompt-tokens words.txt", "six"},
       {"--model tiny.gguf --prompt prompt.txt --layers 0,9", "layers 0 to 2"},
       {"--model tiny.gguf --prompt prompt.txt --layers 0,x", "numbers with commas"},
       {"--model tiny.gguf --prompt prompt.txt --q-rows some", "window:64+decode"},
       {"--model tiny.gguf --prompt prompt.txt --gpu-layers all", "finds no GPU"},
       {"--model tiny.gguf --prompt prompt.txt --gpu-layers few", "gpu-layers"},
       {"--model tiny.gguf --prompts absent.jsonl -o batch", "absent.jsonl"},
       {"--model tiny.gguf --prompts prompt.txt -o batch", "prompt.txt: line 1: must be one JSON object"},
       {"--model tiny.gguf --prompts prompts.jsonl", "directory of shards"},
       {"--model tiny.gguf --prompt prompt.txt --span proof=heron", "evidence"},
       {"--model tiny.gguf --prompt prompt.txt --span evidence=elephant", "elephant"},
       {"--model tiny.gguf --prompt prompt.txt --span evidence=is", "more than once"},
       {"--model tiny.gguf --prompt prompt.txt --decode 500", "context of 256"},
       {"--model tiny.gguf --prompt prompt.txt --system Short", "add --chat-template"},
       {"--model tiny.gguf --prompt prompt.txt --packets", "--span document"},
       {"--model tiny.gguf --prompt prompt.txt --second-pass --second-pass-range 3", "FIRST:END"},
       {"--model tiny.gguf --prompt prompt.txt --second-pass --second-pass-range 3:99", "0:38"},
       {"--model tiny.gguf --prompt prompt.txt --tolerance 1e-12", "more than 1e-12"}}));
  const std::string output = arguments.find("-o") == std::string::npos ? " -o failed.h5" : "";
  const Outcome outcome = run_capture("run " + arguments + output);
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.output, Catch::Contains(reason) && Catch::StartsWith("evictsim-capture: "));
  CHECK(std::count(outcome.output.begin(), outcome.output.end(), '\n') == 1);
  CHECK_FALSE(fs::exists("failed.h5"));
}

TEST_CASE("wrong usage exits with status 2, help with 0") {
  prepare();
  CHECK(run_capture("").status == 2);
  CHECK(run_capture("run --model tiny.gguf").status == 2);
  CHECK(run_capture("run --model tiny.gguf --prompt prompt.txt --prompt-tokens ids.txt -o a.h5").status == 2);
  CHECK(run_capture("run --model tiny.gguf --prompt prompt.txt --decode 3 --continuation answer.txt -o a.h5").status ==
        2);
  CHECK(run_capture("run --model tiny.gguf --prompt-tokens ids.txt --chat-template -o a.h5").status == 2);
  const Outcome type = run_capture("run --model tiny.gguf --prompt prompt.txt --dtype f8 -o a.h5");
  CHECK(type.status == 2);
  CHECK_THAT(type.output, Catch::StartsWith("--dtype: f8: there is no such choice; there are bf16, f16, f32"));
  CHECK(run_capture("run --model tiny.gguf --prompt prompt.txt --prompts prompts.jsonl -o a").status == 2);
  CHECK(run_capture("run --model tiny.gguf --prompts prompts.jsonl --span evidence=a -o a").status == 2);
  CHECK(run_capture("run --model tiny.gguf --prompt prompt.txt --repeat-tail 3 -o a.h5").status == 2);
  CHECK(run_capture("run --model tiny.gguf --prompt prompt.txt --packet-header A -o a.h5").status == 2);
  const Outcome help = run_capture("run --help");
  CHECK(help.status == 0);
  CHECK_THAT(help.output, Catch::Contains("--q-rows") && Catch::Contains("--span"));
}

}  // namespace evictsim::tests
