// Does a report judge by the damage that its data allow, in words and on the plan's frontier, with ties as ties,
// oracles outside, and what a prediction leaves out said?
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "analysis/report/plan_charts.h"
#include "analysis/report/ranking.h"
#include "analysis/report/sentences.h"
#include "analysis/text_table.h"
#include "tests/unit/analysis_made_up_run.h"

using namespace evictsim;
using namespace evictsim::analysis;
using Catch::Matchers::Contains;

namespace {

const ShownMetric& metric_of(const char* name) { return shown_metric(name, "--metric"); }

/// The order of damage is the reverse of that of errors.
RunContents predicted_run(const std::string& status) {
  RunContents run = made_up_run(3, 1);
  for (RunRow& row : run.rows) {
    row[Metric::predicted_kl] = row.policy == "full" ? 0 : 0.2 - row[Metric::output_error] / 10;
    row[Metric::predicted_kl_low] = row[Metric::predicted_kl] / 2;
    row[Metric::predicted_kl_high] = row[Metric::predicted_kl] * 2;
    row.prediction_status = status;
  }
  return run;
}

/// One deployment: the full cache, three policies and an oracle that serves most and errs least.
PlanContents made_up_plan() {
  PlanContents plan;
  plan.path = "plan.h5";
  const auto add = [&](const char* policy, double tokens, double error, double damage) {
    PlanRow& row = plan.rows.emplace_back();
    row.model = "some/model";
    row.gpu = "l4";
    row.policy = policy;
    row.budget = row.policy == "full" ? 1 : 0.2;
    row.output_tokens_per_second = tokens;
    row.output_error = error;
    row.predicted_kl = damage;
    row.frontier = 0;
    plan.backgrounds.emplace_back();
  };
  add("full", 100, 0, 0);
  add("tova", 300, 0.05, 0.3);
  add("snapkv", 250, 0.06, 0.02);
  add("knorm", 200, 0.2, 0.09);
  add("oracle_mass", 400, 0.01, 0.001);
  return plan;
}

}  // namespace

TEST_CASE("a run is judged by predicted damage where every row has it, else by output error") {
  RunContents run = predicted_run("ok");
  CHECK(PointGrid(run).default_metric() == &metric_of("predicted_kl"));
  CHECK(PointGrid(run).interval_over(metric_of("predicted_kl")) == IntervalOver::calibration);
  CHECK(PointGrid(run).value(metric_of("predicted_kl"), 1, 1).high ==
        Approx(2 * PointGrid(run).value(metric_of("predicted_kl"), 1, 1).mean));
  run.rows[2][Metric::predicted_kl] = not_available;
  CHECK(PointGrid(run).default_metric() == &metric_of("output_error"));
  run.rows[2].status = "failed: no room";
  CHECK(PointGrid(run).default_metric() == &metric_of("predicted_kl"));
  for (RunRow& row : run.rows) row[Metric::output_error] = row[Metric::predicted_kl] = not_available;
  CHECK(PointGrid(run).default_metric() == &metric_of("retained_mass"));
  run.rows.clear();
  CHECK(PointGrid(run).default_metric() == nullptr);
}

TEST_CASE("policies with exactly equal values tie, and the next one is behind them") {
  RunContents run = made_up_run(1, 2);
  const auto set = [&](const std::string& policy, double error) {
    for (RunRow& row : run.rows) {
      if (row.policy == policy) row[Metric::output_error] = error;
      row[Metric::kept_bytes] = 1;
    }
  };
  set("snapkv", 0.3);
  set("tova", 0.1);
  set("keeper", 0.1);
  set("best", 0.1);
  for (const BestPolicy& best : best_policies(PointGrid(run), metric_of("output_error"))) {
    CHECK(best.policy == 1);
    CHECK(best.ties == std::vector<std::size_t>{2});
    CHECK(best.next == 0U);
    CHECK(best.next_value == Approx(0.3));
    CHECK(best.apart == true);
  }
  CHECK_THAT(run_sentences(PointGrid(run)).at(0), Contains("tova, which ties with keeper, moves"));
  set("snapkv", 0.1);
  for (const BestPolicy& best : best_policies(PointGrid(run), metric_of("output_error"))) {
    CHECK(best.ties == std::vector<std::size_t>{1, 2});
    CHECK_FALSE(best.next.has_value());
    CHECK_FALSE(best.apart.has_value());
  }
  CHECK_THAT(run_sentences(PointGrid(run)).at(0),
             Contains("snapkv, which ties with tova and 1 more,") && Contains("no further policy"));
  set("tova", std::nextafter(0.1, 1.0));
  CHECK(best_policies(PointGrid(run), metric_of("output_error")).at(0).ties == std::vector<std::size_t>{2});
}

TEST_CASE("sentences name the best policy, the smallest sufficient budget and the oracle") {
  RunContents run = made_up_run(1, 2);
  for (RunRow& row : run.rows) {
    row[Metric::output_error] = row.policy == "tova" ? (row.budget == "0.5" ? 0.08 : 0.2) : 0.3;
    if (row.policy == "best") row[Metric::output_error] = 0.05;
  }
  const std::vector<std::string> sentences = run_sentences(PointGrid(run));
  REQUIRE(sentences.size() == 3);
  CHECK_THAT(sentences[0], Contains("At a budget of 20, tova") && Contains("before snapkv with 0.3") &&
                               Contains("differ significantly"));
  CHECK_THAT(sentences[1], Contains("is 0.5, with tova (0.08)"));
  CHECK_THAT(sentences[2], Contains("best, would reach 0.05") && Contains("tova is 4 times as far off"));

  run.rows.clear();
  run.full_bytes.clear();
  CHECK(run_sentences(PointGrid(run)).empty());
}

TEST_CASE("sentences speak of predicted damage, and say what it leaves out") {
  const RunContents whole = predicted_run("ok");
  CHECK(prediction_note(PointGrid(whole)).empty());
  std::vector<std::string> sentences = run_sentences(PointGrid(whole));
  REQUIRE(sentences.size() == 3);
  CHECK_THAT(sentences[0], Contains("damage the model least") && Contains("band of the prediction"));
  CHECK_THAT(sentences[1], Contains("predicted damage at 0.1 nats"));

  RunContents part = predicted_run("partial: 2 of 30 layers; no band");
  part.rows.front().prediction_status = "partial: 3 of 40 layers";
  CHECK_THAT(prediction_note(PointGrid(part)), Contains("counts 3 of 40 layers or 2 of 30 layers of the model"));
  sentences = run_sentences(PointGrid(part));
  CHECK_THAT(sentences.at(0), Contains("damage the model least"));
  CHECK_THAT(sentences.at(1), Contains("the output error at 0.1"));
}

TEST_CASE("one policy at one budget still gives three sentences") {
  RunContents run = made_up_run(1, 1);
  run.rows.resize(1);
  run.full_bytes.resize(1);
  run.full_bytes[0] = 4 << 20U;
  run.rows[0][Metric::kept_bytes] = 1 << 20U;
  run.rows[0][Metric::retained_mass] = 0.75;
  const std::vector<std::string> sentences = run_sentences(PointGrid(run));
  REQUIRE(sentences.size() == 3);
  CHECK_THAT(sentences[2], Contains("snapkv keeps 1 MiB of the 4 MiB") && Contains("0.75 of the attention's mass"));
}

TEST_CASE("a plan's frontier is that of predicted damage, of output error beside it, and oracles stand outside") {
  PlanContents plan = made_up_plan();
  PlanGroup group = frontier_groups(plan).at(0);
  REQUIRE(group.rows.size() == 5);
  std::vector<FrontierMeasure> measures = frontier_measures(plan, group);
  REQUIRE(measures.size() == 2);
  CHECK(std::string(measures[0].column->name) == "predicted_kl");
  CHECK(measures[0].on == std::vector<std::uint8_t>{1, 1, 1, 0, 0});
  CHECK(std::string(measures[1].column->name) == "output_error");
  CHECK(measures[1].on == std::vector<std::uint8_t>{1, 1, 0, 0, 0});
  const auto sentence = [&](bool partial) { return plan_sentences(plan, partial).at(0); };
  CHECK_THAT(sentence(false), Contains("snapkv at a budget of 0.2 serves 250 tokens per second, 2.5 times") &&
                                  Contains("at a predicted damage of 0.02 nats and an output error of 0.06."));
  // A part may be small where the whole is not.
  CHECK_THAT(sentence(true), Contains("tova") && Contains("predicted damage (partial) of 0.3 nats"));

  // At another rate eviction gains more: that is told, with the rate.
  PlanContents rates = made_up_plan();
  for (PlanRow& row : rates.rows) row.rate = 2;
  for (PlanRow row : plan.rows) {
    row.rate = 8;
    if (row.policy == "full") row.output_tokens_per_second = 50;
    rates.rows.push_back(row);
    rates.backgrounds.emplace_back();
  }
  CHECK_THAT(plan_sentences(rates, false).at(0),
             Contains("On l4 under 8 requests per second, snapkv") && Contains("5 times"));

  plan.rows[3].predicted_kl = PlanRow::none;
  measures = frontier_measures(plan, group);
  REQUIRE(measures.size() == 1);
  CHECK(std::string(measures[0].column->name) == "output_error");
  CHECK_THAT(sentence(true), Contains("tova") && Contains("does, at an output error of 0.05"));
}

TEST_CASE("tables are aligned, and curves as high as their values") {
  CHECK(aligned({{"a", "bb"}, {"long", "c"}, {"x"}}) == "a     bb\nlong   c\nx\n");
  CHECK(aligned({{"\u00e9", "1"}, {"ab", "22"}}, 2) == "\u00e9   1\nab  22\n");
  CHECK(sparkline(std::vector<double>{0, 1, 2, 4, not_available}, 0, 4) == "▁▃▅█ ");
  CHECK(sparkline(std::vector<double>{3}, 3, 3) == "▁");
}

TEST_CASE("tables too wide for the terminal go on below") {
  CHECK(wrapped({{"a", "bb"}, {"long", "c"}, {"x"}}, 1, 80) == "a     bb\nlong   c\nx\n");
  CHECK(wrapped({{"p", "l", "10", "20", "30"}, {"q", "m", "1", "2", "3"}}, 2, 9) ==
        "p  l  10\nq  m   1\n\np  20  30\nq   2   3\n");
  CHECK(wrapped({{"policy tova, budget 2", "x"}, {"b", "y"}}, 1, 30) ==
        "policy tova,   x\nbudget 2\nb              y\n");
  CHECK(wrapped({{std::string(25, 'n'), "x"}}, 1, 20) == "nnnnnnnnnn  x\nnnnnnnnnnn\nnnnnn\n");
  // Any table: every line fits, and nothing is lost.
  std::mt19937 generator(4);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::vector<std::string>> rows(1 + generator() % 5, std::vector<std::string>(1 + generator() % 30));
    std::size_t letters = 0;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      for (std::size_t column = 0; column < rows[row].size(); ++column) {
        rows[row][column] = std::string(1 + generator() % (column == 0 ? 70 : 12), column == 0 ? 'n' : 'v');
        letters += column == 0 ? 0 : rows[row][column].size();
      }
    }
    const std::string text = wrapped(rows, 1, 60);
    std::size_t longest = 0, length = 0, found = 0;
    for (const char letter : text) {
      length = letter == '\n' ? 0 : length + 1;
      longest = std::max(longest, length);
      if (letter == 'v') ++found;
    }
    CHECK(longest <= 60);
    CHECK(found == letters);
  }
}
