// Are the rows of results what a direct computation over all values gives, in any layer order and block size?
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "analysis/run_accumulator.h"
#include "analysis/summary.h"
#include "analysis/table.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::MadeUpReplay;

namespace {

const EvidenceSpans evidence = {{{{4, 9}, {7, 12}, {38, 45}}}};  // overlapping, and one that reaches into decode rows

SequenceResult accumulate(const MadeUpReplay& replay, const std::vector<std::size_t>& order, std::size_t block_rows,
                          DetailAxes axes = {}) {
  SequenceResult kept;
  int finished = 0;
  RunAccumulator accumulator(replay.plan, evidence, axes, [&](SequenceResult&& result) {
    kept = std::move(result);
    ++finished;
  });
  replay.send(accumulator, order, block_rows);
  REQUIRE(finished == 1);
  return kept;
}

/// Mean over layers of the mean over rows and heads.
double mean_of(const std::vector<MadeUpReplay::Values>& layers) {
  double total = 0;
  for (const MadeUpReplay::Values& layer : layers) {
    double sum = 0;
    for (const std::vector<float>& row : layer) {
      for (const float value : row) sum += value;
    }
    total += sum / static_cast<double>(layer.size() * layer.front().size());
  }
  return total / static_cast<double>(layers.size());
}

double pooled_quantile(const std::vector<MadeUpReplay::Values>& layers, double share) {
  std::vector<double> values;
  for (const MadeUpReplay::Values& layer : layers) {
    for (const std::vector<float>& row : layer) values.insert(values.end(), row.begin(), row.end());
  }
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  return values[below] +
         (place - static_cast<double>(below)) * (values[std::min(below + 1, values.size() - 1)] - values[below]);
}

struct Interval {
  Metric low, mean, high;
};
const std::vector<Interval> intervals = {
    {Metric::retained_mass_low, Metric::retained_mass, Metric::retained_mass_high},
    {Metric::output_error_low, Metric::output_error, Metric::output_error_high},
    {Metric::layer_error_low, Metric::layer_error, Metric::layer_error_high},
    {Metric::squared_error_low, Metric::squared_error, Metric::squared_error_high},
    {Metric::regret_low, Metric::regret, Metric::regret_high},
    {Metric::normalised_regret_low, Metric::normalised_regret, Metric::normalised_regret_high},
    {Metric::premature_evictions_low, Metric::premature_evictions, Metric::premature_evictions_high},
    {Metric::dilution_full_low, Metric::dilution_full, Metric::dilution_full_high},
    {Metric::dilution_low, Metric::dilution, Metric::dilution_high},
    {Metric::entropy_full_low, Metric::entropy_full, Metric::entropy_full_high},
    {Metric::entropy_low, Metric::entropy, Metric::entropy_high},
    {Metric::resident_entries_low, Metric::resident_entries, Metric::resident_entries_high},
    {Metric::resident_bytes_low, Metric::resident_bytes, Metric::resident_bytes_high},
    {Metric::evictions_per_step_low, Metric::evictions_per_step, Metric::evictions_per_step_high},
    {Metric::sink_mass_low, Metric::sink_mass, Metric::sink_mass_high},
    {Metric::useful_mass_full_low, Metric::useful_mass_full, Metric::useful_mass_full_high},
    {Metric::decoded_mass_low, Metric::decoded_mass, Metric::decoded_mass_high},
};

bool same_bits(const RunRow& left, const RunRow& right) {
  return std::equal(left.metrics.begin(), left.metrics.end(), right.metrics.begin(), [](double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
  });
}

}  // namespace

TEST_CASE("a row holds the means, quantiles and counts of its definitions") {
  const MadeUpReplay replay(1);
  const SequenceResult result = accumulate(replay, {0, 1, 2}, 8);
  REQUIRE(result.rows.size() == 4);
  for (std::size_t index = 0; index < result.rows.size(); ++index) {
    const RunRow& row = result.rows[index];
    const MadeUpReplay::Point& point = replay.points[index];
    CHECK(row.trace == "made-up.h5");
    CHECK(row.sequence == "000000");
    CHECK(row.policy == replay.plan.policies[index / 2].name);
    CHECK(row.budget == (index % 2 == 0 ? "0.25" : "0.5"));
    CHECK(row.status == "ok");
    CHECK(row.prompt_length == 40);
    CHECK(row.decode_rows == 21);
    CHECK(row.layers == 3);

    CHECK(row[Metric::retained_mass] == Approx(mean_of(point.retained_mass)).epsilon(1e-12));
    CHECK(row[Metric::output_error] == Approx(mean_of(point.output_error)).epsilon(1e-12));
    CHECK(row[Metric::dilution] == Approx(mean_of(point.dilution)).epsilon(1e-12));
    CHECK(row[Metric::entropy] == Approx(mean_of(point.entropy)).epsilon(1e-12));
    CHECK(row[Metric::regret] == Approx(mean_of(point.regret)).epsilon(1e-12));
    CHECK(row[Metric::oracle_gain] == Approx(mean_of(point.oracle_gain)).epsilon(1e-12));
    CHECK(row[Metric::normalised_regret] == Approx(mean_of(point.regret) / mean_of(point.oracle_gain)).epsilon(1e-12));
    CHECK(row[Metric::premature_evictions] == Approx(mean_of(point.premature_evictions)).epsilon(1e-12));
    CHECK(row[Metric::dilution_full] == Approx(mean_of(replay.full_dilution)).epsilon(1e-12));
    CHECK(row[Metric::entropy_full] == Approx(mean_of(replay.full_entropy)).epsilon(1e-12));
    double lost_sinks = 0;
    for (const std::vector<double>& layer : point.lost_sinks) {
      lost_sinks += std::accumulate(layer.begin(), layer.begin() + 21, 0.0) / 63;
    }
    CHECK(row[Metric::lost_sink_mass] == Approx(lost_sinks).epsilon(1e-12));
    CHECK(row[Metric::sink_mass] == Approx(mean_of(point.class_mass[0])).epsilon(1e-12));
    CHECK(row[Metric::useful_mass] == Approx(mean_of(point.class_mass[1])).epsilon(1e-12));
    CHECK(row[Metric::distractor_mass] == Approx(mean_of(point.class_mass[2])).epsilon(1e-12));
    CHECK(row[Metric::decoded_mass] == Approx(mean_of(point.class_mass[3])).epsilon(1e-12));
    CHECK(row[Metric::sink_mass_full] == Approx(mean_of(replay.full_class_mass[0])).epsilon(1e-12));
    CHECK(row[Metric::useful_mass_full] == Approx(mean_of(replay.full_class_mass[1])).epsilon(1e-12));
    CHECK(row[Metric::distractor_mass_full] == Approx(mean_of(replay.full_class_mass[2])).epsilon(1e-12));
    CHECK(row[Metric::decoded_mass_full] == Approx(mean_of(replay.full_class_mass[3])).epsilon(1e-12));
    CHECK(row[Metric::output_error_median] == pooled_quantile(point.output_error, 0.5));
    CHECK(row[Metric::output_error_p95] == pooled_quantile(point.output_error, 0.95));
    CHECK(row[Metric::output_error_p99] == pooled_quantile(point.output_error, 0.99));

    double layer_error = 0;
    double squared_error = 0;
    double kept = 0;
    double pages = 0;
    double resident = 0;
    double evicted = 0;
    double evidence_kept = 0;
    // Tokens 4..11 and 38, 39.
    const std::set<std::int32_t> tokens = {4, 5, 6, 7, 8, 9, 10, 11, 38, 39};
    for (std::size_t layer = 0; layer < 3; ++layer) {
      double relative = 0;
      double squared = 0;
      for (std::size_t r = 0; r < 21; ++r) {
        relative += std::sqrt(point.error_squared[layer][r] / point.output_squared[layer][r]) / 21;
        squared += point.error_squared[layer][r] / 21;
      }
      layer_error += relative / 3;
      squared_error += squared;
      for (const std::vector<std::int32_t>& head : point.kept[layer]) {
        kept += static_cast<double>(head.size());
        pages += std::ceil(static_cast<double>(head.size()) / 16);
        evidence_kept += static_cast<double>(
            std::count_if(head.begin(), head.end(), [&](std::int32_t token) { return tokens.contains(token); }));
      }
      for (const std::int32_t entries : point.resident[layer]) resident += entries;
      for (const std::int32_t entries : point.evicted[layer]) evicted += entries;
    }
    CHECK(row[Metric::layer_error] == Approx(layer_error).epsilon(1e-12));
    CHECK(row[Metric::squared_error] == Approx(squared_error).epsilon(1e-12));
    CHECK(row[Metric::kept_entries] == Approx(kept / 6).epsilon(1e-12));
    CHECK(row[Metric::kept_fraction] == Approx(kept / 6 / 40).epsilon(1e-12));
    CHECK(row[Metric::kept_bytes] == kept * 2 * 8 * 2);
    CHECK(row[Metric::kept_bytes_paged] == pages * 16 * 2 * 8 * 2);
    CHECK(row[Metric::resident_entries] == Approx(resident / (3 * 21 * 2)).epsilon(1e-12));
    CHECK(row[Metric::resident_bytes] == Approx(resident / 21 * 2 * 8 * 2).epsilon(1e-12));
    CHECK(row[Metric::evictions_per_step] == Approx(evicted / (3 * 21 * 2)).epsilon(1e-12));
    CHECK(row[Metric::span_retention] == Approx(evidence_kept / (6.0 * static_cast<double>(tokens.size()))));
    CHECK(row[Metric::oracle_overlap] == 0.5);
    CHECK(row[Metric::recall_bytes_per_step] == 0);
    CHECK(std::isnan(row[Metric::predicted_kl]));
    for (const auto& [low, mean, high] : intervals) {
      INFO(to_string(mean));
      CHECK(row[low] < row[mean]);
      CHECK(row[high] > row[mean]);
    }
    // The prompt's cut scores 80 entries in each of 3 layers, if at all; the second policy 25 after every row.
    const double scored = (index == 0 ? 0 : 80) + (index < 2 ? 0 : 25 * 21);
    CHECK(row[Metric::cuts] == (index == 0 ? 0 : 1) + (index < 2 ? 0 : 21));
    CHECK(row[Metric::scored_entries_per_step] == Approx(3 * scored / 21).epsilon(1e-12));
  }
}

TEST_CASE("intervals over steps are Student's over the means of batches of neighbouring rows") {
  const MadeUpReplay replay(8);
  const RunRow row = accumulate(replay, {0, 1, 2}, 8).rows[3];
  const MadeUpReplay::Point& point = replay.points[3];
  // 21 rows in 4 batches: row r belongs to batch r * 4 / 21.
  const std::vector<std::size_t> firsts = {0, 6, 11, 16, 21};
  const auto batch_means = [&](const std::vector<MadeUpReplay::Values>& layers) {
    std::vector<double> means;
    for (std::size_t batch = 0; batch < 4; ++batch) {
      std::vector<MadeUpReplay::Values> rows;
      for (const MadeUpReplay::Values& layer : layers) {
        rows.emplace_back(layer.begin() + static_cast<std::ptrdiff_t>(firsts[batch]),
                          layer.begin() + static_cast<std::ptrdiff_t>(firsts[batch + 1]));
      }
      means.push_back(mean_of(rows));
    }
    return means;
  };
  const auto half_width = [](const std::vector<double>& means) {
    const double mean = std::accumulate(means.begin(), means.end(), 0.0) / 4;
    double squares = 0;
    for (const double value : means) squares += (value - mean) * (value - mean);
    return 3.182446305284263 * std::sqrt(squares / 3 / 4);  // Student's t for 3 degrees of freedom
  };
  const double dilution = half_width(batch_means(point.dilution));
  CHECK(row[Metric::dilution_low] == Approx(mean_of(point.dilution) - dilution).epsilon(1e-9));
  CHECK(row[Metric::dilution_high] == Approx(mean_of(point.dilution) + dilution).epsilon(1e-9));

  const double ratio = mean_of(point.regret) / mean_of(point.oracle_gain);
  std::vector<double> deviations = batch_means(point.regret);
  const std::vector<double> gains = batch_means(point.oracle_gain);
  for (std::size_t batch = 0; batch < 4; ++batch) {
    deviations[batch] = (deviations[batch] - ratio * gains[batch]) / mean_of(point.oracle_gain);
  }
  CHECK(row[Metric::normalised_regret_low] == Approx(ratio - half_width(deviations)).epsilon(1e-9));
  CHECK(row[Metric::normalised_regret_high] == Approx(ratio + half_width(deviations)).epsilon(1e-9));
}

TEST_CASE("regret has no unit where the oracle gains nothing") {
  MadeUpReplay replay(9);
  for (MadeUpReplay::Values& layer : replay.points[0].oracle_gain) {
    for (std::vector<float>& row : layer) std::fill(row.begin(), row.end(), 5e-7F);
  }
  const SequenceResult result = accumulate(replay, {0, 1, 2}, 8);
  CHECK(std::isfinite(result.rows[0][Metric::regret]));
  CHECK(std::isnan(result.rows[0][Metric::normalised_regret]));
  CHECK(std::isnan(result.rows[0][Metric::normalised_regret_high]));
  CHECK(std::isfinite(result.rows[1][Metric::normalised_regret]));
}

TEST_CASE("over all budgets, regret is summed before it is divided, sequence by sequence") {
  std::vector<RunRow> rows;
  const auto add = [&rows](const char* trace, const char* sequence, const char* policy, const char* budget,
                           double regret, double gain) {
    RunRow& row = rows.emplace_back();
    row.trace = trace;
    row.sequence = sequence;
    row.policy = policy;
    row.budget = budget;
    row[Metric::regret] = regret;
    row[Metric::oracle_gain] = gain;
  };
  add("a.h5", "0", "knorm", "0.1", 0.1, 0.5);
  add("a.h5", "0", "knorm", "0.5", 0.2, 0.1);
  add("a.h5", "0", "full", "0.1", 0, 0);
  add("a.h5", "1", "knorm", "0.1", 0.3, 0.3);
  add("a.h5", "1", "knorm", "0.5", 0.3, 0.2);
  add("b.h5", "0", "knorm", "0.5", 0.2, 0.4);
  add("b.h5", "0", "knorm", "0.9", not_available, not_available);
  const std::vector<PolicySummary> summaries = summarise_over_budgets(rows);
  REQUIRE(summaries.size() == 3);
  CHECK(summaries[0].trace == "a.h5");
  CHECK(summaries[0].policy == "knorm");
  CHECK(summaries[0].budgets == std::vector<std::string>{"0.1", "0.5"});
  // 0.3 / 0.6 and 0.6 / 0.5: mean 0.85, s = 0.7 / sqrt 2, t(1, 0.975) = 12.7062.
  CHECK(summaries[0].normalised_regret.mean == Approx(0.85));
  CHECK(summaries[0].normalised_regret.low == 0);  // 0.85 - 4.447, which no ratio of losses can be
  CHECK(summaries[0].normalised_regret.high == Approx(0.85 + 12.7062047362 * 0.35));
  CHECK(summaries[0].normalised_regret.count == 2);
  CHECK(summaries[1].policy == "full");
  CHECK(std::isnan(summaries[1].normalised_regret.mean));
  CHECK(summaries[1].normalised_regret.count == 0);
  CHECK(summaries[2].budgets == std::vector<std::string>{"0.5"});
  CHECK(summaries[2].normalised_regret.mean == Approx(0.5));
  CHECK(std::isnan(summaries[2].normalised_regret.low));
}

TEST_CASE("results are the same bits in any layer order and any block size") {
  const MadeUpReplay replay(2);
  const DetailAxes axes = DetailAxes::parse("head,step");
  const SequenceResult expected = accumulate(replay, {0, 1, 2}, 21, axes);
  const std::vector<std::vector<std::size_t>> orders = {{2, 1, 0}, {1, 2, 0}, {0, 2, 1}};
  for (const std::vector<std::size_t>& order : orders) {
    for (const std::size_t block_rows : {1U, 4U, 21U}) {
      const SequenceResult result = accumulate(replay, order, block_rows, axes);
      REQUIRE(result.rows.size() == expected.rows.size());
      for (std::size_t index = 0; index < result.rows.size(); ++index) {
        CHECK(same_bits(result.rows[index], expected.rows[index]));
        REQUIRE(result.detail[index].size() == expected.detail[index].size());
        for (std::size_t array = 0; array < result.detail[index].size(); ++array) {
          CHECK(result.detail[index][array].values == expected.detail[index][array].values);
        }
      }
    }
  }
}

TEST_CASE("without W_O the errors behind it are empty, everything else stands") {
  const SequenceResult result = accumulate(MadeUpReplay(3, false), {0, 1, 2}, 8, DetailAxes::parse("layer"));
  const RunRow& row = result.rows.front();
  CHECK(std::isnan(row[Metric::layer_error]));
  CHECK(std::isnan(row[Metric::squared_error]));
  CHECK(std::isfinite(row[Metric::output_error]));
  for (const DetailArray& array : result.detail.front()) CHECK(array.name != "layer_error");
}

TEST_CASE("detail has the axes asked for, and averages over the others") {
  const MadeUpReplay replay(4);
  const auto array_of = [&](const char* axes, const std::string& name) {
    const SequenceResult result = accumulate(replay, {1, 0, 2}, 5, DetailAxes::parse(axes));
    for (const DetailArray& array : result.detail[2]) {
      if (array.name == name) return array;
    }
    FAIL("no array " << name);
    return DetailArray{};
  };
  const std::vector<MadeUpReplay::Values>& errors = replay.points[2].output_error;

  const DetailArray all = array_of("step,layer,head", "output_error");
  CHECK(all.axes == "layer,head,step");
  REQUIRE(all.shape == std::vector<std::size_t>{3, 4, 21});
  CHECK(all.values[(2 * 4 + 1) * 21 + 5] == double{errors[2][5][1]});

  const DetailArray by_head = array_of("head", "output_error");
  REQUIRE(by_head.shape == std::vector<std::size_t>{4});
  double expected = 0;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    for (std::size_t row = 0; row < 21; ++row) expected += double{errors[layer][row][3]} / 63;
  }
  CHECK(by_head.values[3] == Approx(expected).epsilon(1e-12));

  const DetailArray squared = array_of("head,step", "squared_error");
  CHECK(squared.axes == "step");
  REQUIRE(squared.shape == std::vector<std::size_t>{21});
  double sum = 0;
  for (std::size_t layer = 0; layer < 3; ++layer) sum += replay.points[2].error_squared[layer][6];
  CHECK(squared.values[6] == Approx(sum).epsilon(1e-12));

  // Residency has no query heads.
  const DetailArray resident = array_of("layer,head", "resident_entries");
  CHECK(resident.axes == "layer");
  REQUIRE(resident.shape == std::vector<std::size_t>{3});
  double entries = 0;
  for (const std::int32_t count : replay.points[2].resident[1]) entries += count / 42.0;
  CHECK(resident.values[1] == Approx(entries).epsilon(1e-12));

  CHECK_THROWS_AS(DetailAxes::parse("layer,token"), Error);
  CHECK_THROWS_AS(DetailAxes::parse(""), Error);
}

TEST_CASE("skipped policies have no rows, failed ones rows without numbers") {
  const MadeUpReplay replay(5);
  SequenceResult result;
  RunAccumulator accumulator(replay.plan, evidence, {},
                             [&](SequenceResult&& finished) { result = std::move(finished); });
  accumulator.begin_sequence(replay.start);
  accumulator.skipped(0, "layer_003/w_o is missing");
  accumulator.failed(1, "scores are not finite");
  accumulator.end_sequence();
  REQUIRE(result.rows.size() == 2);
  CHECK(result.skipped.size() == 1);
  for (const RunRow& row : result.rows) {
    CHECK(row.policy == "host/tova");
    CHECK(row.status == "failed: scores are not finite");
    CHECK(std::all_of(row.metrics.begin(), row.metrics.end(), [](double value) { return std::isnan(value); }));
  }
}

TEST_CASE("what a failed row says does not depend on which layer failed first") {
  const MadeUpReplay replay(5);
  for (const bool reversed : {false, true}) {
    SequenceResult result;
    RunAccumulator accumulator(replay.plan, evidence, {},
                               [&](SequenceResult&& finished) { result = std::move(finished); });
    accumulator.begin_sequence(replay.start);
    accumulator.failed(1, reversed ? "layer 1" : "layer 0");
    accumulator.failed(1, reversed ? "layer 0" : "layer 1");
    accumulator.failed(1, "layer 1");
    accumulator.end_sequence();
    CHECK(result.failed == std::vector<std::pair<std::size_t, std::string>>{{1, "layer 0"}, {1, "layer 1"}});
    for (const RunRow& row : result.rows) {
      if (row.policy == "host/tova") CHECK(row.status == "failed: layer 0");
    }
  }
}

TEST_CASE("rows of a file have one cell per column, the design's first") {
  const std::vector<std::string> names = column_names();
  const std::vector<std::string> leading = {"trace",
                                            "sequence",
                                            "policy",
                                            "budget",
                                            "kept_entries",
                                            "kept_bytes",
                                            "kept_fraction",
                                            "retained_mass",
                                            "output_error",
                                            "output_error_p95",
                                            "layer_error",
                                            "squared_error",
                                            "predicted_kl",
                                            "predicted_kl_low",
                                            "predicted_kl_high",
                                            "dilution_full",
                                            "dilution",
                                            "entropy_full",
                                            "entropy",
                                            "oracle_overlap",
                                            "recall_bytes_per_step"};
  REQUIRE(names.size() > leading.size());
  CHECK(std::equal(leading.begin(), leading.end(), names.begin()));
  RunRow row;
  row[Metric::kept_bytes] = 4096;
  CHECK(cells(row).size() == names.size());
  CHECK(cells(row)[5] == "4096");
  CHECK(cells(row)[6].empty());
}

TEST_CASE("the table is aligned, sorted by error, and shows shares before entries") {
  std::vector<RunRow> rows;
  const auto add = [&rows](const char* sequence, const char* policy, const char* budget, double error) {
    RunRow& row = rows.emplace_back();
    row.trace = "t.h5";
    row.sequence = sequence;
    row.policy = policy;
    row.budget = budget;
    row[Metric::output_error] = error;
  };
  for (const char* sequence : {"0", "1"}) {
    add(sequence, "random", "512", 0.5);
    add(sequence, "random", "0.5", 0.7);
    add(sequence, "tova", "0.50", sequence[0] == '0' ? 0.1 : 0.3);
  }
  const std::string table = output_error_table(rows);
  CHECK(table ==
        "Relative output error per head, mean ± 95 % interval over 2 sequences, by budget:\n\n"
        "policy             0.5             512\n"
        "tova    0.2000 ±1.2706               -\n"
        "random  0.7000 ±0.0000  0.5000 ±0.0000\n");
  CHECK(output_error_table({}).empty());
}
