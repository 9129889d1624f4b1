// Do `evictsim-capture verify` and `evictsim-capture sensitivity`, called as a user calls them, write what they say,
// and answer mistakes with one line and the right status? Does the script that measures fidelity take any GGUF file?

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "analysis/damage/truth_file.h"
#include "tests/capture/capture_program.h"
#include "tests/capture/tiny_model.h"
#include "traces/reader.h"

namespace evictsim::tests {
namespace {

namespace fs = std::filesystem;

const std::string engine = "--model tiny.gguf ";

std::string contents(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void prepare() {
  static const TinyWeights weights = write_tiny_model("tiny.gguf", {.context = 1024});
  std::ofstream words("ids.txt");
  for (int i = 0; i < 300; ++i) words << 30 + (i * i * 7 + 11 * i) % 97 << ' ';
  std::ofstream("prompt.txt") << "There is a silver heron by the river, and behind it is nothing but prose.";
  std::ofstream("answer.txt") << "silver heron";
}

}  // namespace

TEST_CASE("verify writes a row per text, policy and budget, and goes on where it stopped") {
  prepare();
  fs::remove_all("traces");
  const std::string arguments = "verify " + engine +
                                "--prompt-tokens ids.txt --text prose,copy --length 100 --rows 10 --policy "
                                "'snapkv(window=8),tova' --budget 0.2,1 --csv truth.csv --traces traces";
  const Outcome outcome = run_capture(arguments);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.output, Catch::Contains("ids-copy@100: tova 0.2: KL") && Catch::Contains("8 new rows"));
  const std::vector<analysis::TruthRow> rows = analysis::read_truth("truth.csv");
  REQUIRE(rows.size() == 8);
  CHECK(rows[0].text == "ids-prose@100");
  CHECK(rows[0].run.policy == "snapkv(window=8)");
  CHECK(rows[0].rows == 10);
  CHECK(rows[0].kl > 1e-6);
  CHECK(rows[0].run.prompt_length == 100);
  CHECK(rows[0].run.layer_squared_errors.size() == 3);
  CHECK(rows[1].run.budget == "1");
  CHECK(rows[1].kl < 1e-6);
  CHECK(traces::Reader("traces/ids-copy@100.h5").sequences().front().length == 110);

  // Cut off inside a line, as a kill may leave it.
  const std::string whole = contents("truth.csv");
  const std::size_t last_line = whole.rfind('\n', whole.size() - 2) + 1;
  fs::resize_file("truth.csv", last_line + 7);
  const Outcome again = run_capture(arguments + " --resume");
  INFO(again.output);
  CHECK(again.status == 0);
  CHECK_THAT(again.output, Catch::Contains("1 new rows"));
  const std::vector<analysis::TruthRow> resumed = analysis::read_truth("truth.csv");
  REQUIRE(resumed.size() == 8);
  CHECK(resumed.back().kl == rows.back().kl);
  CHECK(contents("truth.csv").substr(0, last_line) == whole.substr(0, last_line));
}

TEST_CASE("policies that cannot run in a model are named in the end, and the others have their rows") {
  prepare();
  const Outcome outcome = run_capture("verify " + engine +
                                      "--prompt prompt.txt --rows 5 --ignore-end --policy kvpacket,knorm,epikv "
                                      "--budget 0.5 --csv others.csv");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK_THAT(outcome.output, Catch::Contains("kvpacket was not run: it attends packets") &&
                                 Catch::Contains("epikv was not run: it looks at step_norm of rows decoded"));
  const std::vector<analysis::TruthRow> rows = analysis::read_truth("others.csv");
  REQUIRE(rows.size() == 1);
  CHECK(rows.front().run.policy == "knorm");
}

TEST_CASE("verify takes a prompt as it is, with the model's answer or a given one") {
  prepare();
  const std::string arguments = "verify " + engine + "--prompt prompt.txt --policy knorm --budget 0.5 --csv whole.csv ";
  REQUIRE(run_capture(arguments + "--rows 5 --ignore-end").status == 0);
  CHECK(analysis::read_truth("whole.csv").front().rows == 5);
  CHECK(analysis::read_truth("whole.csv").front().text == "prompt");
  REQUIRE(run_capture(arguments + "--continuation answer.txt").status == 0);
  CHECK(analysis::read_truth("whole.csv").front().rows == 12);
}

TEST_CASE("an interrupted verify keeps its finished rows and says so") {
  prepare();
  const Outcome outcome =
      run_capture("verify " + engine +
                      "--prompt-tokens ids.txt --text prose --length 200 --rows 64 --policy h2o --budget "
                      "$(seq -s, 20 190) --csv interrupted.csv",
                  "timeout -s INT 3 ");
  INFO(outcome.output);
  // A machine may be fast enough to come to the end.
  CHECK((outcome.status == 130 || outcome.status == 124 || outcome.status == 0));
  const std::string csv = contents("interrupted.csv");
  REQUIRE_FALSE(csv.empty());
  CHECK(csv.back() == '\n');
}

TEST_CASE("sensitivity stores weights with how they were measured") {
  prepare();
  REQUIRE(
      run_capture("run " + engine + "--prompt prompt.txt --decode 4 --ignore-end --layers 0,2 -o trace.h5").status ==
      0);
  const Outcome outcome = run_capture("sensitivity " + engine +
                                      "--prompt-tokens ids.txt --text copy --length 100 --rows 10 --into trace.h5 "
                                      "--csv probe.csv");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const traces::Reader reader("trace.h5");
  REQUIRE(reader.header().sensitivity.size() == 2);
  CHECK(reader.header().sensitivity[0] > 0);
  CHECK(reader.header().sensitivity_attributes.at("texts") == "ids-copy@100");
  CHECK(reader.header().sensitivity_attributes.at("rows") == "10");
  CHECK_THAT(reader.header().sensitivity_attributes.at("model_checksum"), Catch::StartsWith("gmac-64k:"));
  const std::string csv = contents("probe.csv");
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 4);
  // The built-in prose, by a tokenizer of bytes.
  const Outcome built_in =
      run_capture("sensitivity " + engine + "--length 700 --rows 16 --into trace.h5 -o copy.h5 --draws 2");
  INFO(built_in.output);
  CHECK(built_in.status == 0);
  CHECK(traces::Reader("copy.h5").header().sensitivity_attributes.at("texts") ==
        "built-in-facts@700,built-in-copy@700,built-in-prose@700");
}

TEST_CASE("the script that measures fidelity takes models of other families, and goes on where it stopped") {
  TinyModel model;
  model.architecture = GENERATE("qwen2", "gemma2");
  model.hidden = model.query_heads * model.head_dim;
  model.context = 1024;
  const std::string file = model.architecture + ".gguf", folder = "fidelity-" + model.architecture, page = "page.md";
  write_tiny_model(file, model);
  fs::remove_all(folder);
  std::ofstream(page) << "before\n<!-- damage: begin -->\nstale\n<!-- damage: end -->\nbehind\n";
  const std::string script = "CAPTURE=" EVICTSIM_BIN_DIR "/evictsim-capture EVICTSIM=" EVICTSIM_BIN_DIR
                             "/evictsim LENGTHS=300,400 ROWS=16 PROSE=emma,persuasion FACTS=emma_late "
                             "POLICIES='random,knorm,snapkv(window=8)' BUDGETS=0.25,0.5 DOCUMENT=" +
                             page + " " EVICTSIM_SOURCE_DIR "/analysis/damage/fidelity/measure.sh " + file + " " +
                             folder;
  const Outcome outcome = run_line(script);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const std::vector<analysis::TruthRow> rows = analysis::read_truth(folder + "/truth.csv");
  CHECK(rows.size() == 3 * 2 * 3 * 2);
  for (const analysis::TruthRow& row : rows) {
    CHECK(row.run.ok());
    CHECK(row.kl > 1e-6);
  }
  CHECK(traces::Reader(folder + "/probe.h5").header().sensitivity.size() == 3);
  const std::string table = contents(page);
  CHECK_THAT(table, Catch::StartsWith("before\n<!-- damage: begin -->\n") &&
                        Catch::EndsWith("<!-- damage: end -->\nbehind\n") &&
                        Catch::Contains("36 points of 3 texts, in 3 folds") &&
                        Catch::Contains("| sensitivity alone ") && !Catch::Contains("stale"));
  const Outcome again = run_line(script);
  INFO(again.output);
  CHECK(again.status == 0);
  CHECK_THAT(again.output, Catch::Contains("0 new rows") && !Catch::Contains("top-1"));
  CHECK(contents(page) == table);
}

TEST_CASE("mistakes get one line and exit status 1") {
  prepare();
  const auto [arguments, reason] = GENERATE(table<std::string, std::string>(
      {{"verify --prompt absent.txt --policy knorm --budget 0.5 --csv failed.csv", "absent.txt"},
       {"verify --policy knorm --budget 0.5 --csv failed.csv", "a text is needed"},
       {"verify --prompt prompt.txt,prompt.txt --policy knorm --budget 0.5 --csv failed.csv", "same name"},
       {"verify --prompt prompt.txt --policy kvpacket --budget 0.5 --csv failed.csv", "kvpacket"},
       {"verify --prompt prompt.txt --policy snapvk --budget 0.5 --csv failed.csv", "snapkv"},
       {"verify --prompt prompt.txt --policy knorm --budget 2.5 --csv failed.csv", "2.5"},
       {"verify --prompt prompt.txt --text riddle --policy knorm --budget 0.5 --csv failed.csv",
        "prose, copy and facts"},
       {"verify --prompt prompt.txt --text prose --length 90 --policy knorm --budget 0.5 --csv failed.csv",
        "needs 154 tokens"},
       {"verify --prompt prompt.txt --policy knorm --budget 0.5 --csv answer.txt --resume", "other columns"},
       {"sensitivity --text prose --length 90 --into absent.h5 --prompt prompt.txt", "needs 154 tokens"},
       {"sensitivity --text copy --length 90", "needs 160 tokens"}}));
  const Outcome outcome = run_capture(arguments + " " + engine);
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.output, Catch::Contains(reason) && Catch::StartsWith("evictsim-capture: "));
  CHECK(std::count(outcome.output.begin(), outcome.output.end(), '\n') == 1);
}

TEST_CASE("wrong usage exits with status 2, help with 0") {
  CHECK(run_capture("verify --model tiny.gguf --prompt prompt.txt --policy knorm --budget 0.5").status == 2);
  CHECK(run_capture("verify --model tiny.gguf --prompt prompt.txt --length 5 --policy knorm --budget 0.5 --csv a.csv")
            .status == 2);
  CHECK(run_capture("sensitivity").status == 2);
  CHECK(run_capture("sensitivity --model tiny.gguf -o a.h5").status == 2);
  CHECK(run_capture("verify --help").status == 0);
  CHECK_THAT(run_capture("sensitivity --help").output, Catch::Contains("--into"));
}

}  // namespace evictsim::tests
