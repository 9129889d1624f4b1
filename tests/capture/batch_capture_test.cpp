// Do many prompts become shards that verify and replay, whatever happens to some of them?

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <functional>

#include "policies/policy.h"
#include "sim/replay/replay.h"
#include "tests/capture/exact_capture.h"
#include "tests/support/replay_collector.h"
#include "traces/capture/batch_capture.h"
#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/verify.h"

namespace evictsim::tests {
namespace {

const std::string source = "prompts.jsonl";

struct Events final : BatchObserver {
  void progressed(const BatchEntry& entry, std::int32_t done, std::int32_t length) override {
    if (on_progress) on_progress(entry, done, length);
  }
  void recorded(const BatchEntry& entry, const CaptureReport& /*report*/) override {
    lines.push_back("recorded " + entry.sequence.id);
  }
  void skipped(const BatchEntry& entry) override { lines.push_back("skipped " + entry.sequence.id); }
  void failed(const BatchEntry& entry, const Error& error) override {
    lines.push_back("failed " + std::to_string(entry.line) + " " + entry.sequence.id);
    reasons.emplace_back(error.what());
  }
  void checked(const std::string& id, const AttentionCheckResult& check) override {
    CHECK(check.largest <= 1e-5);
    CHECK(check.compared > 0);
    checks.push_back(id);
  }
  std::vector<std::string> lines, reasons, checks;
  std::function<void(const BatchEntry&, std::int32_t, std::int32_t)> on_progress;
};

const std::string three_prompts = R"({"prompt": "Thequickbrownfox", "id": "fox", "task": "animals"}
{"prompt": "jumpsoverthelazydog", "id": "dog", "decode": 3, "spans": ["evidence=lazy", "document=tokens:0:5"]}

{"prompt_tokens": [90, 91, 92, 93], "continuation_tokens": [94, 95]}
)";

std::vector<BatchEntry> entries_of(const std::string& text) {
  SequencePlan defaults;
  defaults.decode = 5;
  defaults.ignore_end = true;
  return parse_batch(text, source, defaults);
}

struct Done {
  BatchReport report;
  Events events;
};

Done run(const std::string& text, const fs::path& directory, RecordPlan record = exact_plan({}).record,
         const std::atomic<bool>* stop = nullptr, Events events = {}) {
  Done done{.events = std::move(events)};
  done.report =
      BatchCapture(default_model(), exact_plan({}).engine, record, entries_of(text)).run(directory, done.events, stop);
  return done;
}

fs::path fresh(const std::string& name) {
  fs::remove_all(scratch(name));
  return scratch(name);
}

std::vector<std::string> ids_in(const fs::path& directory) {
  std::vector<std::string> ids;
  for (const Reader& reader : open_traces({directory})) {
    for (const SequenceInfo& info : reader.sequences()) ids.push_back(info.request_id.value());
  }
  return ids;
}

}  // namespace

TEST_CASE("three prompts become one directory that verifies, replays, and holds what single captures hold") {
  const fs::path directory = fresh("three");
  const Done done = run(three_prompts, directory);
  CHECK(done.events.lines == std::vector<std::string>{"recorded fox", "recorded dog", "recorded line-000004"});
  CHECK(done.events.checks == std::vector<std::string>{"fox", "dog", "line-000004"});
  CHECK(done.report.recorded == 3);
  CHECK(done.report.shards == 1);
  CHECK_FALSE(done.report.interrupted);
  CHECK(verify(directory).empty());
  const std::vector<Reader> readers = open_traces({directory});
  REQUIRE(readers.size() == 1);
  REQUIRE(readers[0].sequences().size() == 3);
  CHECK(readers[0].header().extra.at("capture_decoding") == "by prompt");
  CHECK(readers[0].sequences()[0].task == "animals");
  CHECK(readers[0].sequences()[0].length == 16 + 5);
  CHECK(readers[0].sequences()[1].length == 19 + 3);
  CHECK(readers[0].sequences()[1].spans.at("evidence") == std::vector<Span>{{12, 16}});
  CHECK(readers[0].sequences()[2].length == 4 + 2);

  CapturePlan single = exact_plan(default_model());
  single.sequence.prompt = "Thequickbrownfox";
  single.sequence.decode = 5;
  LlamaCapture(single).run(scratch("fox.h5"));
  require_same(readers[0], Reader(scratch("fox.h5")), 0);

  test::ReplayCollector results;
  const std::atomic<bool> stop = false;
  sim::replay(readers, sim::ReplayPlan::of(policies::parse_policies("snapkv,h2o"), {policies::Budget::parse("0.5")}),
              {}, results, stop);
  CHECK(results.failed_policies.empty());
  CHECK(results.finished_sequences == 3);
}

TEST_CASE("second passes and documents alone are recorded for every prompt of a batch") {
  const fs::path directory = fresh("passes");
  RecordPlan record = exact_plan({}).record;
  record.second_pass = SecondPassPlan{.chunk = 8, .first_request = "Again", .next_request = "And"};
  record.packets = PacketPlan{.header = "AB", .trailer = "C", .embeddings = ""};
  const Done done = run(R"({"prompt": "Thequickbrownfox", "spans": ["document=quick", "document=brown"]}
{"prompt": "Thequickbrownfox", "id": "whole", "spans": ["document=tokens:0:16"], "second_pass_range": [2, 9]}
{"prompt": "Thequickbrownfox", "id": "none"})",
                        directory, record);
  CHECK(done.report.recorded == 2);
  REQUIRE(done.events.reasons.size() == 1);
  CHECK(done.events.reasons[0].find("document") != std::string::npos);
  CHECK(verify(directory).empty());
  const std::vector<Reader> readers = open_traces({directory});
  CHECK(readers.at(0).read_second_pass(0)->chunk.back() == Span{8, 16});
  CHECK(readers.at(0).read_second_pass(1)->chunk == std::vector<Span>(5 + 7, Span{2, 9}));
  CHECK(readers.at(0).read_packets(0, PacketSet::wrapped) == Packets{{{3, 8}, 2, 1}, {{8, 13}, 2, 1}});
  CHECK(readers.at(0).read_packets(1, PacketSet::bare) == Packets{{{0, 16}}});
}

TEST_CASE("a prompt that the model cannot take fails alone, and a later run goes on with what is missing") {
  const fs::path directory = fresh("resumed");
  const std::string first = R"({"prompt": "Thequickbrownfox", "id": "fox"}
{"prompt": "Thequickbrownfox", "id": "long", "decode": 500}
{"prompt": "Thequickbrownfox", "id": "snippet", "spans": ["evidence=elephant"]}
{"prompt_tokens": [5, 99999], "id": "token"}
{"prompt": "lazydog", "id": "dog"}
)";
  const Done done = run(first, directory);
  CHECK(done.events.lines == std::vector<std::string>{"recorded fox", "failed 2 long", "failed 3 snippet",
                                                      "failed 4 token", "recorded dog"});
  CHECK(done.report.failed == 3);
  CHECK(ids_in(directory) == std::vector<std::string>{"fox", "dog"});
  const Done again = run(first + R"({"prompt": "new", "id": "more"})", directory);
  CHECK(again.report.skipped == 2);
  CHECK(again.report.recorded == 1);
  CHECK(ids_in(directory) == std::vector<std::string>{"fox", "dog", "more"});
  CHECK(verify(directory).empty());

  const Done other = run(R"({"prompt": "another", "id": "fox"})", directory);
  REQUIRE(other.events.reasons.size() == 1);
  CHECK(other.events.reasons[0].find("another prompt under this id") != std::string::npos);
  RecordPlan fewer = exact_plan({}).record;
  fewer.layers = {1};
  CHECK_THROWS_WITH(run(three_prompts, directory, fewer), Catch::Contains("layers 0,1,2"));
  CHECK(ids_in(directory) == std::vector<std::string>{"fox", "dog", "more"});
}

TEST_CASE("hashed token ids hide the tokens, and a batch goes on with its key only") {
  const fs::path directory = fresh("hashed");
  const std::string first = R"({"prompt_tokens": [90, 91, 90, 93], "id": "a", "decode": 2})";
  const std::string second = R"({"prompt_tokens": [90, 92, 91], "id": "b", "decode": 2})";
  RecordPlan record = exact_plan({}).record;
  record.hash_token_ids = true;
  CHECK_THROWS_WITH(run(first, directory, record), Catch::Contains("--token-key"));
  record.token_key = "a key";
  CHECK(run(first, directory, record).report.recorded == 1);

  const Reader reader = std::move(open_traces({directory}).front());
  const std::vector<float> stored = reader.read_channel(0, Channel::token_ids).value().data;
  CHECK(std::vector<float>(stored.begin(), stored.begin() + 4) != std::vector<float>{90, 91, 90, 93});
  CHECK(stored[0] == stored[2]);
  CHECK(stored[0] != stored[1]);

  CHECK(run(first + "\n" + second, directory, record).events.lines ==
        std::vector<std::string>{"skipped a", "recorded b"});
  RecordPlan other_key = record;
  other_key.token_key = "another key";
  CHECK(run(first, directory, other_key).events.lines == std::vector<std::string>{"failed 1 a"});
  CHECK_THROWS_WITH(run(first, directory), Catch::Contains("token ids hashed, this one has plain"));
}

TEST_CASE("an interrupted batch keeps what is finished, and only that") {
  const fs::path directory = fresh("interrupted");
  std::atomic<bool> stop = false;
  Events events;
  events.on_progress = [&stop](const BatchEntry& entry, std::int32_t done, std::int32_t length) {
    if (entry.sequence.id == "dog" && done == length - 1) stop = true;
  };
  const Done done = run(three_prompts, directory, exact_plan({}).record, &stop, std::move(events));
  CHECK(done.report.interrupted);
  CHECK(done.events.lines == std::vector<std::string>{"recorded fox"});
  CHECK(done.events.checks == std::vector<std::string>{"fox"});
  CHECK(ids_in(directory) == std::vector<std::string>{"fox"});
  CHECK(open_traces({directory}).at(0).header().dropped_rows == 0);
  const Done rest = run(three_prompts, directory);
  CHECK(rest.events.lines == std::vector<std::string>{"skipped fox", "recorded dog", "recorded line-000004"});
  CHECK(verify(directory).empty());
}

TEST_CASE("a failed check takes its shard out of the directory and ends the batch") {
  const fs::path directory = fresh("rejected");
  run(three_prompts, directory);
  RecordPlan record = exact_plan({}).record;
  record.tolerance = 1e-12;
  record.shard_bytes = 1;  // a shard for every prompt
  CHECK_THROWS_WITH(run(R"({"prompt": "another", "id": "a"}
{"prompt": "onemore", "id": "b"})",
                        directory, record),
                    Catch::Contains("1e-12") && Catch::Contains("shard-000001.h5.rejected"));
  CHECK(fs::exists(directory / "shard-000001.h5.rejected"));
  CHECK_FALSE(fs::exists(directory / "shard-000001.h5"));
  CHECK(ids_in(directory) == std::vector<std::string>{"fox", "dog", "line-000004"});
  CHECK(verify(directory).empty());
  const Done done = run(R"({"prompt": "another", "id": "a"})", directory);
  CHECK(done.report.recorded == 1);
}

TEST_CASE("every sequence is checked, in whichever shard it lies") {
  const fs::path directory = fresh("rotated");
  RecordPlan record = exact_plan({}).record;
  record.shard_bytes = 1;  // as soon as a byte has been written, which is when the writers come to it
  const Done done = run(three_prompts, directory, record);
  CHECK(done.report.shards == open_traces({directory}).size());
  CHECK(done.events.checks.size() == 3);
  CHECK(ids_in(directory) == std::vector<std::string>{"fox", "dog", "line-000004"});
}

TEST_CASE("a line that cannot be read is named before anything runs") {
  const auto refused = [](const std::string& line, const std::string& reason) {
    INFO(line);
    const std::string text = R"({"prompt": "fine"})" + std::string("\n\n") + line + "\n";
    CHECK_THROWS_WITH(parse_batch(text, source, {}),
                      Catch::Contains("prompts.jsonl: line 3: ") && Catch::Contains(reason));
  };
  refused("{\"prompt\": \"cut", "must be one JSON object");
  refused("[1]", "must be one JSON object");
  refused("{}", "either a prompt or prompt_tokens");
  refused(R"({"prompt": "a", "prompt_tokens": [1]})", "either a prompt or prompt_tokens");
  refused(R"({"prompt": 3})", "must be a string");
  refused(R"({"prompt": "a", "colour": 1})", "there is no such key; there are chat_template");
  refused(R"({"prompt": "a", "decode": -1})", "decode");
  refused(R"({"prompt": "a", "decode": 1.5})", "whole number");
  refused(R"({"prompt": "a", "decode": 99999999999})", "from 0 to 2147483647");
  refused(R"({"prompt": "a", "decode": 1, "continuation": "b"})", "one of decode");
  refused(R"({"prompt": "a", "chat_template": "yes"})", "true or false");
  refused(R"({"prompt_tokens": [5], "chat_template": true})", "give prompt");
  refused(R"({"prompt": "a", "system": "b"})", "add \"chat_template\": true");
  refused(R"({"prompt_tokens": []})", "not empty");
  refused(R"({"prompt_tokens": [1, "2"]})", "whole number");
  refused(R"({"prompt": "a", "spans": ["proof=b"]})", "evidence");
  refused(R"({"prompt": "a", "spans": "evidence=b"})", "list");
  refused(R"({"prompt": "a", "second_pass_range": [1]})", "[first, end]");
  refused(R"({"prompt": "a", "id": ""})", "must not be empty");
  refused(R"({"prompt": "a", "id": "line-000001"})", "line 1 has this id too");
  CHECK_THROWS_WITH(parse_batch("\n \n", source, {}), Catch::Contains("at least one prompt"));
}

}  // namespace evictsim::tests
