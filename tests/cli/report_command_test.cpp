// Does `evictsim report` write its page, tables, comparisons and timelines, and say one clear line for whatever else it
// is given?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "analysis/report/page/page.h"
#include "analysis/report/report.h"
#include "tests/cli/program.h"
#include "traces/error.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using nlohmann::json;

namespace {

/// A replay of every kind of policy, with all detail unless `per` is empty.
std::string replayed(const std::filesystem::path& folder, const std::string& name, const Arguments& more = {},
                     const TraceShape& shape = {}) {
  const std::filesystem::path trace = folder / "trace.h5";
  if (!std::filesystem::exists(trace)) write_trace(trace, shape);
  const std::string file = (folder / name).string();
  Arguments words = {"replay", trace.string(), "-o", file, "--quiet"};
  words.insert(words.end(), more.begin(), more.end());
  const Outcome outcome = run(folder, words);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return file;
}

const Arguments usual = {"--policy", "tova,knorm,window,full,oracle_mass,quest(page=8)", "--budget", "0.2,0.5"};

Arguments with(Arguments words, const Arguments& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::string planned(const std::filesystem::path& folder, const std::string& name,
                    const Arguments& more = {"--rate", "2"}) {
  const std::string file = (folder / name).string();
  const Outcome outcome = run(folder, with({"plan", "-m", "llama-3.1-8b", "-g", "h100-80gb-sxm", "-w", "poisson",
                                            "--requests-count", "100", "-o", file, "--quiet"},
                                           more));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return file;
}

json data_of(const std::vector<std::string>& files) {
  return json::parse(evictsim::analysis::report_json(evictsim::analysis::ReportInputs::open(files), "evictsim report"));
}

std::string why_missing(const json& report, const std::string& section, const std::string& part) {
  for (const json& one : report.at("missing")) {
    if (one.at("section") == section && one.at("part") == (part.empty() ? json() : json(part))) return one.at("why");
  }
  return {};
}

bool has_page() { return !evictsim::analysis::page_template().empty(); }

}  // namespace

TEST_CASE("a page holds the data of every file, and nothing of it as markup") {
  const std::filesystem::path folder = scratch("report_page");
  const std::string run_file = replayed(folder, "run.h5", with(usual, {"--per", "layer,head,entry"}));
  const std::string plan_file = planned(folder, "plan.h5", {"--rate", "2,4", "--slo", "ttft_p99=2s"});
  const std::string page = (folder / "report.html").string();
  const Outcome outcome = run(folder, {"report", run_file, plan_file, "-o", page});
  if (!has_page()) {
    CHECK(outcome.status == 1);
    CHECK_THAT(outcome.err, Contains("has no page for reports"));
    return;
  }
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(outcome.out == "Wrote " + page + ".\n");
  const std::string html = contents(page);
  CHECK_THAT(html, Contains("made/up"));
  CHECK(html.find("@EVICTSIM_") == std::string::npos);
  // The same inputs give the same bytes.
  const std::string again = (folder / "again.html").string();
  REQUIRE(run(folder, {"report", run_file, plan_file, "-o", page}).status == 0);
  CHECK(contents(page) == html);
  CHECK_FALSE(std::filesystem::exists(page + ".partial"));
}

TEST_CASE("sections come from the files' numbers") {
  const std::filesystem::path folder = scratch("report_data");
  const std::string run_file = replayed(folder, "run.h5", with(usual, {"--per", "layer,head,step,entry"}));
  const std::string plan_file = planned(folder, "plan.h5", {"--rate", "2,4", "--slo", "ttft_p99=2s,tpot_mean=50ms"});
  const json report = data_of({run_file, plan_file});
  CHECK(report.at("format") == "evictsim-report");
  const json& section = report.at("runs").at(0);
  CHECK(section.at("policies").size() == 6);
  CHECK(section.at("budgets").size() == 2);
  CHECK(section.at("sequences").size() == 2);
  for (const json& metric : section.at("metrics")) {
    CHECK(metric.at("values").at("shape") == json({6, 2}));
    if (metric.at("name") == "output_error") CHECK(metric.at("interval") == "sequences");
  }
  CHECK(section.at("policies").at(3).at("kind") == "full");
  CHECK(section.at("policies").at(4).at("kind") == "oracle");
  CHECK(section.at("best").at("output_error").size() == 2);
  for (const json& best : section.at("best").at("output_error")) CHECK(best.at("ties").is_array());
  CHECK(section.at("default_metric") == "output_error");
  CHECK(section.at("where").at("layers") == json({0, 2}));
  CHECK(section.at("where").at("by_head").at(0).at("values").at("shape") == json({6, 2, 2, 4}));
  CHECK(section.at("where").at("by_step").at("steps").size() == 10);
  CHECK(section.at("where").at("by_position").at("edges").size() == 33);
  REQUIRE(section.at("tokens").size() == 2);
  const json& tokens = section.at("tokens").at(0);
  CHECK(tokens.at("length") == prompt_length);
  CHECK(tokens.at("spans").at(0) == json({{"kind", "evidence"}, {"begin", 10}, {"end", 20}}));
  CHECK(tokens.at("heads").at("kept").at("shape") == json({6, 2, 2, 2, prompt_length}));
  CHECK(section.at("dilution").at("sets") == json({"sink", "useful", "distractor", "decoded"}));
  CHECK(section.at("memory").at("steps").size() == 10);
  CHECK_THAT(why_missing(report, "tokens", "text"), Contains("no text of its tokens"));
  CHECK_THAT(why_missing(report, "plan", "frontier"), Contains("--profile"));
  CHECK(why_missing(report, "where", "heads").empty());

  const json& plan = report.at("plans").at(0);
  CHECK(plan.at("rows") == 2);
  CHECK(plan.at("labels") == json({"rate 2", "rate 4"}));
  CHECK(plan.at("loads").at(0).at("rows") == json({0, 1}));
  REQUIRE(plan.at("slo").size() == 2);
  CHECK(plan.at("slo").at(0) ==
        json({{"metric", "ttft"}, {"statistic", "p99"}, {"limit", 2.0}, {"column", "ttft_p99"}}));
  REQUIRE(plan.at("over_time").size() == 2);
  const json& course = plan.at("over_time").at(0);
  CHECK(course.at("seconds").size() <= 100);
  CHECK(course.at("seconds").size() == course.at("kv_tokens").size());
  for (const json& held : course.at("kv_tokens")) CHECK(held <= course.at("kv_capacity"));
  double sum = 0;
  for (const json& line : plan.at("kv_budgets").at(0).at("lines")) sum += line.at("bytes").get<double>();
  CHECK(plan.at("kv_budgets").at(0).at("total") == sum);
  CHECK(plan.at("kv_budgets").size() == 1);
  CHECK(report.at("files").size() == 2);
  CHECK(report.at("files").at(0).at("inputs").at(0).at("checksum").get<std::string>().size() == 64);
  CHECK(report.at("summary").at("sentences").size() == 3);
}

TEST_CASE("whatever is not there is named, with a reason") {
  const std::filesystem::path folder = scratch("report_missing");
  const std::string run_file = replayed(folder, "run.h5", {"--policy", "tova", "--budget", "0.5"});
  const json tiered =
      data_of({replayed(folder, "host.h5", {"--policy", "infinigen", "--budget", "0.2", "--per", "step"})});
  CHECK_THAT(why_missing(tiered, "memory", "disk"), Contains("keeps anything on disk"));
  CHECK(why_missing(tiered, "memory", "host").empty());
  CHECK_FALSE(tiered.at("runs").at(0).at("memory").at("host").is_null());
  CHECK_THAT(why_missing(tiered, "summary", ""), Contains("no policy can be called best"));
  std::filesystem::remove(folder / "trace.h5");
  const json report = data_of({run_file});
  CHECK(report.at("runs").at(0).at("where").is_null());
  CHECK(report.at("runs").at(0).at("tokens").is_null());
  CHECK_THAT(why_missing(report, "where", ""), Contains("--per"));
  CHECK_THAT(why_missing(report, "tokens", ""), Contains("--per"));
  CHECK_THAT(why_missing(report, "plan", ""), Contains("evictsim plan"));
  CHECK_THAT(why_missing(report, "curves", "predicted_kl"), Contains("nothing is predicted"));
  CHECK_THAT(why_missing(report, "memory", "tiers"), Contains("dropped"));
  CHECK(report.at("summary").at("sentences").size() >= 2);

  const json plan = data_of({planned(folder, "plan.h5", {"--rate", "1"})});
  CHECK(plan.at("runs").empty());
  CHECK_THAT(why_missing(plan, "curves", ""), Contains("evictsim replay"));
  CHECK_THAT(why_missing(plan, "plan", "load"), Contains("one rate"));
  CHECK_THAT(why_missing(plan, "plan", "slo"), Contains("--slo"));

  // Without decode rows nothing attends: most metrics are empty.
  const std::filesystem::path bare = scratch("report_bare");
  const std::string prefill =
      replayed(bare, "run.h5", {"--policy", "knorm", "--budget", "0.5"}, {.sequences = 1, .length = prompt_length});
  const json empty = data_of({prefill});
  CHECK_THAT(why_missing(empty, "dilution", ""), Contains("decode rows"));
  CHECK_FALSE(why_missing(empty, "curves", "output_error").empty());
}

TEST_CASE("the trace is found again by its bytes, or named, and a dump tells what cuts kept") {
  const std::filesystem::path folder = scratch("report_trace");
  const std::string dump = (folder / "kept.h5").string();
  const std::string run_file =
      replayed(folder, "run.h5", {"--policy", "tova,knorm", "--budget", "0.5", "--dump", dump});
  const std::filesystem::path trace = folder / "trace.h5", moved = scratch("report_trace_moved") / "other.h5";
  CHECK(data_of({run_file, dump}).at("runs").at(0).at("tokens").at(0).at("spans").size() == 1);
  std::filesystem::rename(trace, moved);
  const json without = data_of({run_file, dump});
  CHECK_THAT(why_missing(without, "tokens", "text"), Contains("is not there"));
  CHECK(without.at("runs").at(0).at("tokens").at(0).at("spans").empty());
  const json report = data_of({run_file, dump, moved.string()});
  const json& tokens = report.at("runs").at(0).at("tokens").at(0);
  CHECK(tokens.at("spans").size() == 1);
  CHECK(tokens.at("heads").at("layers") == json({0, 2}));
  CHECK(tokens.at("heads").at("kept").at("shape") == json({2, 1, 2, 2, prompt_length}));
  CHECK(tokens.at("lost").is_null());
  CHECK(report.at("files").size() == 3);
  write_trace(trace, {.sequences = 1});
  CHECK_THAT(why_missing(data_of({run_file, dump}), "tokens", "text"), Contains("has changed since"));
  const std::string other = (scratch("report_other") / "run.h5").string();
  const Outcome outcome =
      run(folder, {"replay", trace.string(), "--policy", "tova", "--budget", "0.5", "-o", other, "--quiet"});
  REQUIRE(outcome.status == 0);
  const Outcome refused = run(folder, {"report", other, dump, "--text"});
  CHECK(refused.status == 1);
  CHECK_THAT(refused.err, Contains("kept.h5") && Contains("no run file"));
}

TEST_CASE("--text prints tables, --compare differences") {
  const std::filesystem::path folder = scratch("report_text");
  const std::string left = replayed(folder, "a.h5", usual);
  const std::string right = replayed(folder, "b.h5", {"--policy", "tova,random", "--budget", "0.2,0.5", "--seed", "4"});
  const Outcome text = run(folder, {"report", left, planned(folder, "plan.h5")});
  INFO(text.err);
  REQUIRE(text.status == 0);
  CHECK_THAT(text.out, Contains("oracle_mass (oracle)") && Contains("Queries come from the full-cache run") &&
                           Contains("At a budget of 0.2") && Contains("tokens/s"));
  const Outcome mass = run(folder, {"report", left, "--text", "--metric", "retained_mass"});
  CHECK_THAT(mass.out, Contains("retained attention mass"));

  const std::string csv = (folder / "differences.csv").string();
  const Outcome compared = run(folder, {"report", "--compare", left, right, "--csv", csv});
  INFO(compared.err);
  REQUIRE(compared.status == 0);
  CHECK_THAT(compared.out, Contains("no difference shown") && Contains("10 points of A and 2 points of B"));
  for (const auto& row : read_csv(csv)) {
    CHECK(row.at("policy") == "tova");
    CHECK(std::stod(row.at("difference")) == 0);
    CHECK(row.at("sequences") == "2");
    CHECK(row.at("p_value") == "1");
  }
}

TEST_CASE("a plan of policies shows the frontier that it was judged by, and oracles outside") {
  const std::filesystem::path folder = scratch("report_frontier");
  const std::string run_file =
      replayed(folder, "run.h5", {"--policy", "all", "--budget", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"});
  const std::string plan_file =
      planned(folder, "plan.h5", {"--rate", "2", "--profile", run_file, "--policy", "tova,oracle_mass"});
  const json plan = data_of({plan_file}).at("plans").at(0);
  REQUIRE(plan.at("frontiers").size() == 1);
  const json& frontier = plan.at("frontiers").at(0);
  REQUIRE(frontier.at("measures").size() == 1);  // nothing is predicted for this trace
  const json& measure = frontier.at("measures").at(0);
  CHECK(measure.at("error") == "output_error");
  std::size_t oracles = 0, marked = 0;
  for (std::size_t i = 0; i < frontier.at("rows").size(); ++i) {
    const bool oracle = frontier.at("oracle").at(i);
    const bool on = measure.at("on").at(i);
    oracles += oracle ? 1 : 0;
    marked += on ? 1 : 0;
    CHECK_FALSE((oracle && on));
    for (const json& column : plan.at("columns")) {
      const json& value = column.at("values").at(frontier.at("rows").at(i).get<std::size_t>());
      if (column.at("name") == "policy") CHECK((value == "oracle_mass") == oracle);
      if (column.at("name") == "frontier") CHECK((value == 1.0) == on);
    }
  }
  CHECK(oracles == 9);
  CHECK(marked > 0);

  const Outcome text = run(folder, {"report", run_file, plan_file, "--text"});
  REQUIRE(text.status == 0);
  CHECK_THAT(text.out, Contains("frontier: nobody serves more at no more output error; oracles cannot be deployed"));
  // Without parameters of its own, chunk keeps what knorm keeps.
  const std::string equal = replayed(folder, "equal.h5", {"--policy", "knorm,chunk", "--budget", "0.5"});
  CHECK_THAT(run(folder, {"report", equal, "--text"}).out,
             Contains("knorm = chunk") && Contains("= ties: exactly equal"));
  // Tables fit, sentences are left to the terminal.
  std::istringstream lines(text.out.substr(text.out.find("by budget:")));
  std::size_t tables = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("policy ")) ++tables;
    const auto characters =
        std::count_if(line.begin(), line.end(), [](char letter) { return (letter & '\xc0') != '\x80'; });
    if (line.starts_with("policy ") || line.starts_with("tova ")) CHECK(characters <= 120);
  }
  CHECK(tables >= 1);
}

TEST_CASE("--timeline writes the Trace Event Format") {
  const std::filesystem::path folder = scratch("report_timeline");
  const std::string run_file = replayed(folder, "run.h5", with(usual, {"--per", "step"}));
  const std::string timeline = (folder / "timeline.json").string();
  const Outcome outcome = run(folder, {"report", run_file, "--timeline", timeline});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(outcome.out == "Wrote " + timeline + ".\n");
  CHECK(json::parse(contents(timeline)).at("traceEvents").size() > 100);
  const Outcome without = run(folder, {"report", replayed(folder, "plain.h5", usual), "--timeline", timeline});
  CHECK(without.status == 1);
  CHECK_THAT(without.err, Contains("--per step"));
}

TEST_CASE("what is no input of a report gets one line, and exit status 1") {
  const std::filesystem::path folder = scratch("report_bad");
  const std::string run_file = replayed(folder, "run.h5", usual);
  const auto refused = [&](const Arguments& more, const std::string& expected) {
    const Outcome outcome = run(folder, with({"report"}, more));
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK_THAT(outcome.err, StartsWith("error: ") && Contains(expected));
    CHECK(lines_in(outcome.err) == 1);
    CHECK(outcome.out.empty());
  };
  const auto file = [&](const std::string& name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return (folder / name).string();
  };
  refused({(folder / "none.h5").string()}, "none.h5");
  refused({file("empty.h5", "")}, "empty.h5");
  refused({file("text.h5", "no HDF5 at all\n")}, "text.h5");
  const std::string whole = contents(run_file);
  refused({file("half.h5", whole.substr(0, whole.size() / 2))}, "half.h5");
  const std::string trace = (folder / "trace.h5").string(), dump = (folder / "kept.h5").string();
  refused({trace}, trace + ": is a trace: a report needs a run file or a plan file, and evictsim replay " + trace);
  REQUIRE(run(folder, {"replay", trace, "--policy", "tova", "--budget", "0.5", "--dump", dump, "--csv",
                       (folder / "run.csv").string(), "-o", (folder / "dumped.h5").string(), "--quiet"})
              .status == 0);
  refused({dump}, "kept.h5: is a dump");
  refused({(folder / "run.csv").string()}, "run.csv: is a table: a report reads the file");
  refused({(folder / "run.csv").string()}, run_file);
  refused({file("other.csv", "policy\n")}, "evictsim replay -o run.h5");
  refused({run_file, run_file}, "run.h5: is given twice");
  refused({run_file, (folder / "." / "run.h5").string()}, "is given twice");
  refused({planned(folder, "plan.h5"), "--timeline", (folder / "timeline.json").string()}, "evictsim plan --timeline");
  refused({run_file, "--metric", "speed"}, "output_error");
  refused({run_file, "-o", run_file}, "would overwrite an input");
  refused({run_file, "-o", (folder / "nowhere" / "report.html").string()}, "report.html");
  refused({"--compare", run_file, planned(folder, "plan.h5")}, "plan.h5");
  CHECK(run(folder, {"report"}).status == 2);
  CHECK(run(folder, {"report", "--compare", run_file}).status == 2);
  CHECK(run(folder, {"report", run_file, "--csv", "x.csv"}).status == 2);
  CHECK(run(folder, {"report", run_file, "--compare", run_file, run_file}).status == 2);
}

TEST_CASE("a damaged file is refused or read, and never crashes the report") {
  const std::filesystem::path folder = scratch("report_damage");
  const std::string run_file = replayed(folder, "run.h5", {"--policy", "tova", "--budget", "0.5", "--per", "layer"});
  const std::string whole = contents(run_file);
  std::mt19937 generator(7);
  for (int round = 0; round < 40; ++round) {
    std::string bytes = whole;
    for (int change = 0; change < 4; ++change) bytes[generator() % bytes.size()] = static_cast<char>(generator());
    std::ofstream(folder / "damaged.h5", std::ios::binary) << bytes;
    const Outcome outcome = run(folder, {"report", (folder / "damaged.h5").string(), "--text"});
    INFO(round << ": " << outcome.err);
    CHECK((outcome.status == 0 || (outcome.status == 1 && lines_in(outcome.err) == 1)));
  }
}
