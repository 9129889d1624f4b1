// Are a report's statistics those of brute force, and is every array and text written so that it reads back?
#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "analysis/pareto_front.h"
#include "analysis/report/compare.h"
#include "analysis/report/encoding.h"
#include "analysis/report/point_grid.h"
#include "analysis/report/ranking.h"
#include "analysis/report/sentences.h"
#include "analysis/text_table.h"
#include "tests/support/base64.h"
#include "tests/unit/analysis_made_up_run.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::analysis;
using Catch::Matchers::Contains;

namespace {

const ShownMetric& metric_of(const char* name) { return shown_metric(name, "--metric"); }

/// The page's way back, written from docs/report.md: four planes of bytes.
std::vector<float> decoded(const Json& array) {
  const std::string text = test::base64_decoded(array.at("data").get<std::string>());
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  std::size_t size = 1;
  for (const auto& extent : array.at("shape")) size *= extent.get<std::size_t>();
  REQUIRE(bytes.size() == 4 * size);
  std::vector<float> values;
  for (std::size_t i = 0; i < size; ++i) {
    std::uint32_t bits = 0;
    for (unsigned k = 0; k < 4; ++k) bits |= static_cast<std::uint32_t>(bytes[k * size + i]) << 8 * k;
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

}  // namespace

TEST_CASE("the Pareto front is what no point beats, by brute force") {
  std::mt19937 generator(5);
  for (int round = 0; round < 200; ++round) {
    // Few distinct values, so that there are ties.
    std::vector<double> x, cost;
    for (int i = 0; i < 30; ++i) {
      x.push_back(generator() % 7 == 0 ? not_available : static_cast<double>(generator() % 6));
      cost.push_back(generator() % 9 == 0 ? not_available : static_cast<double>(generator() % 6));
    }
    const std::vector<std::uint8_t> on = pareto_front(x, cost);
    for (std::size_t i = 0; i < x.size(); ++i) {
      bool expected = !std::isnan(x[i]) && !std::isnan(cost[i]);
      for (std::size_t k = 0; k < x.size(); ++k) {
        if (x[k] <= x[i] && cost[k] <= cost[i] && (x[k] < x[i] || cost[k] < cost[i])) expected = false;
      }
      CHECK(on[i] == (expected ? 1 : 0));
    }
  }
}

TEST_CASE("a grid orders budgets by share, knows oracles, and who holds to the budget") {
  const RunContents run = made_up_run(1, 2);
  const PointGrid grid(run);
  REQUIRE(grid.budgets().size() == 3);
  CHECK(grid.budgets()[0].text == "0.1");
  CHECK(grid.budgets()[1].text == "20");
  CHECK(grid.budgets()[1].share == Approx(0.2));
  CHECK(grid.budgets()[2].share == Approx(0.5));
  REQUIRE(grid.policies().size() == 5);
  CHECK(grid.policies()[0].kind == PolicyKind::policy);
  CHECK(grid.policies()[3].kind == PolicyKind::oracle);
  CHECK(grid.policies()[4].kind == PolicyKind::full);
  REQUIRE(grid.left_out().size() == 1);
  CHECK(grid.left_out()[0].name == "kvzip");
  CHECK(grid.at(0, 1).within == true);
  CHECK(grid.at(2, 1).within == false);
  CHECK(grid.sequences().size() == 2);
  CHECK(grid.at(1, 2).summary.sequences == 2);
  CHECK(grid.interval_over(metric_of("output_error")) == IntervalOver::sequences);
  CHECK_FALSE(grid.has(metric_of("predicted_kl")));
  CHECK_THROWS_WITH(shown_metric("outputerror", "--metric"), Contains("output_error") && Contains("--metric"));

  RunContents old = run;
  old.full_bytes.clear();
  CHECK_FALSE(PointGrid(old).at(0, 1).within.has_value());
}

TEST_CASE("over one sequence intervals are those over its steps") {
  const RunContents run = made_up_run(1, 1);
  const PointGrid grid(run);
  const ShownMetric& error = metric_of("output_error");
  CHECK(grid.interval_over(error) == IntervalOver::steps);
  const Estimate estimate = grid.value(error, 0, 0);
  CHECK(estimate.low == Approx(estimate.mean * 0.9));
  CHECK(estimate.high == Approx(estimate.mean * 1.1));
  CHECK(grid.interval_over(metric_of("kept_bytes")) == IntervalOver::nothing);
}

TEST_CASE("the best policy of a budget is the smallest mean among those that hold to it") {
  for (const unsigned seed : {1U, 2U, 3U, 4U, 5U, 6U}) {
    const RunContents run = made_up_run(seed, 3);
    const PointGrid grid(run);
    for (const char* name : {"output_error", "retained_mass"}) {
      const ShownMetric& metric = metric_of(name);
      const std::vector<BestPolicy> best = best_policies(grid, metric);
      REQUIRE(best.size() == 3);
      for (const BestPolicy& found : best) {
        // Only snapkv and tova are candidates: means and paired differences by hand.
        std::array<double, 2> sums = {0, 0};
        std::vector<double> differences;
        for (int sequence = 0; sequence < 3; ++sequence) {
          std::array<double, 2> values = {0, 0};
          for (const RunRow& row : run.rows) {
            if (row.sequence != std::to_string(sequence) || row.budget != grid.budgets()[found.budget].text) continue;
            if (row.policy == "snapkv") values[0] = row[metric.metric];
            if (row.policy == "tova") values[1] = row[metric.metric];
          }
          sums[0] += values[0];
          sums[1] += values[1];
          differences.push_back(values[0] - values[1]);
        }
        const bool first = metric.better == Better::lower ? sums[0] <= sums[1] : sums[0] >= sums[1];
        CHECK(found.policy == (first ? 0U : 1U));
        REQUIRE(found.next);
        CHECK(*found.next == (first ? 1U : 0U));
        CHECK(found.value.mean == Approx(sums[first ? 0 : 1] / 3));
        CHECK(found.next_value == Approx(sums[first ? 1 : 0] / 3));
        const Estimate paired = student_estimate(differences);
        CHECK(found.apart == (paired.low > 0 || paired.high < 0));
      }
    }
  }
}

TEST_CASE("fronts leave out oracles, the full cache, and against budgets those that keep more") {
  const RunContents run = made_up_run(4, 2);
  const PointGrid grid(run);
  const Fronts on = fronts(grid, metric_of("output_error"));
  std::vector<double> shares, costs;
  for (std::size_t policy = 0; policy < 2; ++policy) {
    for (std::size_t budget = 0; budget < 3; ++budget) {
      shares.push_back(grid.budgets()[budget].share);
      costs.push_back(grid.at(policy, budget).summary[Metric::output_error].mean);
    }
  }
  std::vector<std::uint8_t> expected = pareto_front(shares, costs);
  expected.resize(on.budget.size(), 0);
  CHECK(on.budget == expected);
  for (std::size_t place = 9; place < 15; ++place) CHECK(on.bytes[place] == 0);
  // At equal bytes the keeper's best budget alone can be on the front.
  CHECK(on.bytes[6] + on.bytes[7] + on.bytes[8] <= 1);
}

TEST_CASE("paired differences use the sequences that both hold, and Student's test") {
  using Value = PointGrid::SequenceValue;
  const std::vector<Value> left = {{"t", "a", 1}, {"t", "b", 2}, {"t", "c", 4}, {"u", "a", 9}};
  const std::vector<Value> right = {{"t", "c", 1}, {"t", "a", 0}, {"t", "b", 3}, {"t", "d", 7}};
  const PairedDifference paired = paired_difference(left, right);  // 1, -1, 3
  CHECK(paired.estimate.count == 3);
  CHECK(paired.estimate.mean == Approx(1));
  // s = 2, standard error 2 / sqrt(3), t = 0.8660 with 2 degrees of freedom: p = 0.4778; quantile 4.302653.
  CHECK(paired.p_value == Approx(0.477767).epsilon(1e-5));
  CHECK(paired.estimate.low == Approx(1 - 4.302653 * 2 / std::sqrt(3.0)).epsilon(1e-6));
  CHECK(paired.significant() == false);
  CHECK(paired_difference(std::vector<Value>{{"t", "a", 1}}, right).significant() == std::nullopt);
  const std::vector<Value> shifted = {{"t", "a", 2}, {"t", "b", 3}};
  CHECK(paired_difference(shifted, std::vector<Value>{{"t", "a", 1}, {"t", "b", 2}}).p_value == 0);
  CHECK(paired_difference(shifted, shifted).p_value == 1);
  CHECK(paired_difference(shifted, shifted).significant() == false);
}

TEST_CASE("runs are compared over the same bytes, wherever they lie") {
  RunContents left = made_up_run(1, 3), right = made_up_run(2, 4);
  right.provenance.inputs.front().path = "elsewhere/trace.h5";
  for (RunRow& row : right.rows) row.trace = "elsewhere/trace.h5";
  std::erase_if(right.rows, [](const RunRow& row) { return row.policy == "tova" && row.budget == "0.1"; });
  const PointGrid one(left), other(right);
  const std::vector<ComparedPoint> points = compare(one, other, metric_of("output_error"));
  CHECK(points.size() == 14);
  for (const ComparedPoint& point : points) {
    double sum = 0;
    for (const RunRow& row : right.rows) {
      if (row.policy == point.policy && row.budget == point.budget && row.sequence != "3")
        sum += row[Metric::output_error];
    }
    CHECK(point.right == Approx(sum / 3));
    CHECK(point.difference.estimate.count == 3);
    CHECK(point.difference.estimate.mean == Approx(point.right - point.left).margin(1e-12));
  }
  CHECK_THAT(comparison_text(one, other, metric_of("output_error")),
             Contains("1 point of A and 0 points of B are not in the other run"));
  const std::string csv = comparison_csv(one, other);
  // Errors, retained mass and bytes of 14 points each.
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 1 + 3 * 14);

  right.provenance.inputs.front().checksum = "bb";
  for (const ComparedPoint& point : compare(one, PointGrid(right), metric_of("output_error"))) {
    CHECK(point.difference.estimate.count == 0);
    CHECK(std::isnan(point.left));
  }
  const RunContents single = made_up_run(1, 1);
  const PointGrid alone(single);
  CHECK_THAT(comparison_text(alone, alone, metric_of("output_error")), Contains("no significance can be computed"));
}

TEST_CASE("long arrays read back from base64") {
  CHECK(base64({}).empty());
  const auto encoded = [](const std::string& text) {
    return base64(std::vector<std::uint8_t>(text.begin(), text.end()));
  };
  // RFC 4648, section 10.
  CHECK(encoded("f") == "Zg==");
  CHECK(encoded("fo") == "Zm8=");
  CHECK(encoded("foo") == "Zm9v");
  CHECK(encoded("foobar") == "Zm9vYmFy");

  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> values = {0, 1, -1, 0.1, 1e-30, 3.4e38, not_available, infinity, -infinity, 1e300, 1e-50};
  std::mt19937 generator(2);
  std::lognormal_distribution<double> random(0, 20);
  while (values.size() < 1000) values.push_back(random(generator));
  const std::vector<float> back = decoded(real_array({10, 100}, values));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto expected = static_cast<float>(values[i]);
    if (std::isnan(expected)) {
      CHECK(std::isnan(back[i]));
    } else if (std::isinf(expected) || std::abs(expected) < 1e-37F) {
      CHECK(back[i] == Approx(expected));
    } else {
      CHECK(std::abs(back[i] - expected) <= std::abs(expected) / 4096);
    }
  }
}

TEST_CASE("hostile text becomes harmless and stays visible") {
  CHECK(shown_text("plain", 10) == "plain");
  CHECK(shown_text("a\xff"
                   "b\xc3",
                   10) == "a\ufffdb\ufffd");
  CHECK(shown_text("\xed\xa0\x80", 10) == "\ufffd\ufffd\ufffd");
  CHECK(shown_text("\xc0\xaf", 10) == "\ufffd\ufffd");
  CHECK(shown_text(std::string(1U << 20U, 'x'), 4) == "xxxx…[1048576 bytes]");
  // A character that the limit cuts in two is left out.
  CHECK(shown_text("ab\u00e9\u00e9\u00e9", 3) == "ab…[8 bytes]");
  const std::string hostile = std::string("</script>&\u2028\u202e\x7f", 18) + '\0' + "\n\"";
  const std::string text = to_text(Json{{"text", shown_text(hostile, 100)}});
  for (const char letter : text) {
    CHECK((letter >= ' ' && letter < 0x7f));
    CHECK_FALSE((letter == '<' || letter == '>' || letter == '&'));
  }
  CHECK(Json::parse(text).at("text") == hostile);
  CHECK(terminal_text("a\x1b[31m\xc2\x9b"
                      "b\u202e\xff\u00e9") == "a?[31m?b??\u00e9");
  CHECK(number(not_available).is_null());
}
