// Does predicted damage obey its theory: known weights recovered, bands that hold at their rate, summed errors and lost
// sinks as defined?
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "analysis/damage/calibration.h"
#include "analysis/damage/conformal.h"
#include "analysis/damage/law_fit.h"
#include "analysis/damage/rank_measures.h"
#include "analysis/run_accumulator.h"
#include "models/projection.h"
#include "models/random_directions.h"
#include "tests/support/memory_trace_exact.h"
#include "tests/support/memory_trace_replay.h"

namespace {

using namespace evictsim;
using namespace evictsim::analysis;
using namespace evictsim::test;

/// A model whose damage follows a law exactly, or up to noise that all points share the distribution of.
struct MadeUpModel {
  DamageLaw law;
  std::mt19937_64 random{7};

  explicit MadeUpModel(int layers) {
    std::normal_distribution<double> normal;
    for (int layer = 0; layer < layers; ++layer) {
      law.layers.push_back(2 * layer);
      law.weights.push_back(std::exp(1.5 * normal(random)));
    }
  }

  std::vector<TruthRow> rows(int texts, int policies, double noise) {
    std::normal_distribution<double> normal;
    std::vector<TruthRow> rows;
    for (int text = 0; text < texts; ++text) {
      for (int policy = 0; policy < policies; ++policy) {
        const double quality = std::exp(normal(random));
        for (const char* budget : {"0.1", "0.3", "0.6"}) {
          TruthRow row;
          row.model = "made up";
          row.text = "text " + std::to_string(text);
          row.run.policy = "policy " + std::to_string(policy);
          row.run.budget = budget;
          row.run.layer_indices = law.layers;
          for (std::size_t layer = 0; layer < law.layers.size(); ++layer) {
            const double kept = std::stod(budget);
            row.run.layer_squared_errors.push_back(1e-2 * quality * (1 - kept) * std::exp(normal(random)));
          }
          row.run[Metric::lost_sink_mass] = policy % 3 == 0 ? 0.0 : 0.3 * (1 - std::stod(budget));
          row.kl =
              law.kl(row.run.layer_squared_errors, row.run[Metric::lost_sink_mass]) * std::exp(noise * normal(random));
          rows.push_back(row);
        }
      }
    }
    return rows;
  }
};

std::vector<DamagePoint> points_of(const std::vector<TruthRow>& rows) {
  std::vector<DamagePoint> points;
  for (const TruthRow& row : rows) {
    points.push_back({row.text, row.text, row.run.policy, row.run.budget, row.kl, row.run.layer_squared_errors,
                      row.run[Metric::lost_sink_mass]});
  }
  return points;
}

DamageLaw fitted(const std::vector<DamagePoint>& points, const std::vector<int>& layers, const FitOptions& options) {
  std::vector<const DamagePoint*> pointers;
  for (const DamagePoint& point : points) pointers.push_back(&point);
  return fit_law(pointers, layers, options);
}

double exact_summed_error(const MemoryTrace& trace, const ReplayCollector& results, std::size_t point) {
  const auto layers = trace.header.layers.size();
  const auto width = static_cast<std::size_t>(trace.header.hidden_size);
  const auto heads = trace.header.num_query_heads;
  const std::vector<float>& norms = trace.sequences[0].channels.at(traces::Channel::final_norm_input);
  const traces::SequenceInfo& info = trace.sequences[0].info;
  const std::vector<std::int32_t> rows = ExactLayer(trace, 0).decode_rows();
  double mean = 0;
  for (const std::int32_t row : rows) {
    std::vector<double> sum(width, 0.0);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const ExactLayer exact(trace, layer);
      const sim::PromptCut& cut = results.cuts.at({point, layer});
      std::vector<double> moved;
      for (int head = 0; head < heads; ++head) {
        const auto cache_head = static_cast<std::size_t>(head * cut.cache_heads / heads);
        const auto metrics =
            exact.metrics(head, row, resident_set(cut.kept[cache_head], info.prompt_length, info.length), {});
        moved.insert(moved.end(), metrics.difference.begin(), metrics.difference.end());
      }
      for (std::size_t d = 0; d < width; ++d) {
        for (std::size_t c = 0; c < moved.size(); ++c) {
          sum[d] += static_cast<double>(trace.w_o[layer][d * moved.size() + c]) * moved[c];
        }
      }
    }
    const double squared = std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0);
    mean += std::sqrt(squared) / static_cast<double>(norms[static_cast<std::size_t>(row)]);
  }
  return mean / static_cast<double>(rows.size());
}

/// run.csv's rows of a trace of one sequence.
std::vector<RunRow> rows_of(const MemoryTrace& trace, const sim::ReplayPlan& plan, const sim::ReplayOptions& options) {
  const std::vector<traces::Reader> readers = stored_list(trace);
  std::vector<RunRow> rows;
  RunAccumulator accumulator(plan, evidence_spans(readers), {},
                             [&](SequenceResult&& result) { rows = std::move(result.rows); });
  const std::atomic<bool> stop = false;
  sim::replay(readers, plan, options, accumulator, stop);
  return rows;
}

sim::ReplayPlan plan_of(const std::string& policies, const std::vector<std::string>& budgets) {
  return sim::ReplayPlan::of(policies::parse_policies(policies), budgets_of(budgets));
}

}  // namespace

TEST_CASE("a model whose KL is a weighted sum of squared errors gives its weights back") {
  MadeUpModel model(12);
  const std::vector<TruthRow> rows = model.rows(4, 15, 0);
  const DamageLaw law = fitted(points_of(rows), model.law.layers, {.ridge = 1e-9});
  REQUIRE(law.layers == model.law.layers);
  CHECK(law.exponent == 1);
  for (std::size_t layer = 0; layer < law.weights.size(); ++layer) {
    CHECK(law.weights[layer] == Approx(model.law.weights[layer]).epsilon(1e-3));
  }
  const CalibrationReport report = calibrate(rows, {.fit = {.ridge = 1e-9}});
  CHECK(report.held_out.average > 0.999);
  CHECK(report.held_out.fixed_budget > 0.999);
  CHECK(report.held_out.pairs == 1);
  CHECK(report.held_out.factor_90 == Approx(1).epsilon(1e-3));
}

TEST_CASE("an exponent and a saturation are found where the model has them, and left alone where not asked for") {
  for (const LawForm form : {LawForm::linear, LawForm::saturating_layer, LawForm::saturating_total}) {
    for (const double exponent : {1.0, 0.8}) {
      MadeUpModel model(6);
      model.law.form = form;
      model.law.exponent = exponent;
      if (form != LawForm::linear) model.law.saturation = 0.5;
      for (double& weight : model.law.weights) weight *= 20;
      const std::vector<TruthRow> rows = model.rows(4, 20, 0);
      const DamageLaw law =
          fitted(points_of(rows), model.law.layers, {.form = form, .fit_exponent = exponent != 1, .ridge = 1e-9});
      CHECK(law.exponent == Approx(exponent).epsilon(1e-2));
      if (form != LawForm::linear) CHECK(law.saturation == Approx(0.5).epsilon(2e-2));
      for (const TruthRow& row : rows) {
        CHECK(law.kl(row.run.layer_squared_errors, row.run[Metric::lost_sink_mass]) == Approx(row.kl).epsilon(1e-2));
      }
    }
  }
}

TEST_CASE("lost sinks count as much less as they do in the model, and like other errors where that is not fitted") {
  for (const LawForm form : {LawForm::linear, LawForm::saturating_layer, LawForm::saturating_total}) {
    MadeUpModel model(6);
    model.law.form = form;
    model.law.sink_relief = 4;
    if (form != LawForm::linear) model.law.saturation = 2;
    const std::vector<TruthRow> rows = model.rows(5, 20, 0);
    const CalibrationReport report = calibrate(rows, {.fit = {.form = form, .ridge = 1e-9}});
    CHECK(report.calibration.law.sink_relief == Approx(4).epsilon(1e-2));
    CHECK(report.held_out.factor_90 == Approx(1).epsilon(2e-2));
    const auto alike = std::find_if(report.predictors.begin(), report.predictors.end(), [](const auto& predictor) {
      return predictor.name.find("lost sinks counted like other errors") != std::string::npos;
    });
    REQUIRE(alike != report.predictors.end());
    CHECK(alike->measures.factor_90 > 1.1);
    CHECK(fitted(points_of(rows), model.law.layers, {.form = form, .fit_sinks = false}).sink_relief == 0);
  }
  // Where a row does not say what was lost, nothing is made of it.
  MadeUpModel model(6);
  std::vector<TruthRow> rows = model.rows(5, 20, 0.1);
  rows.front().run[Metric::lost_sink_mass] = not_available;
  CHECK(calibrate(rows, {}).calibration.law.sink_relief == 0);
}

TEST_CASE("the ridge decides between weights that the points do not tell apart") {
  // Two layers that always move alike: only the sum of their weights is known.
  MadeUpModel model(2);
  std::vector<TruthRow> rows = model.rows(3, 10, 0.1);
  for (TruthRow& row : rows) row.run.layer_squared_errors[1] = 3 * row.run.layer_squared_errors[0];
  const DamageLaw law = fitted(points_of(rows), model.law.layers, {});
  CHECK(law.weights[0] == Approx(3 * law.weights[1]).epsilon(1e-6));
}

TEST_CASE("bands of exchangeable residuals hold at their rate on texts that were left out") {
  for (const double coverage : {0.8, 0.9}) {
    MadeUpModel model(8);
    const CalibrationReport report = calibrate(model.rows(20, 12, 0.6), {.fit = {}, .coverage = coverage});
    REQUIRE(report.has_band);
    CHECK(report.held_coverage == Approx(coverage).margin(0.03));

    // New points of the same model.
    const ConformalBand band = conformal_band(report.calibration.residuals, coverage);
    int inside = 0;
    const std::vector<TruthRow> rows = model.rows(60, 12, 0.6);
    for (const TruthRow& row : rows) {
      const double factor =
          row.kl / report.calibration.law.kl(row.run.layer_squared_errors, row.run[Metric::lost_sink_mass]);
      if (factor >= band.low && factor <= band.high) ++inside;
    }
    CHECK(inside / static_cast<double>(rows.size()) == Approx(coverage).margin(0.03));
  }
}

TEST_CASE("the mean coverage of a conformal band is at least the stated one at any number of residuals") {
  std::mt19937_64 random(3);
  std::cauchy_distribution<double> heavy;
  for (const std::size_t count : {fewest_residuals(0.8), std::size_t{71}, std::size_t{200}}) {
    int inside = 0;
    constexpr int trials = 4000;
    for (int trial = 0; trial < trials; ++trial) {
      std::vector<double> residuals(count);
      for (double& residual : residuals) residual = std::clamp(heavy(random), -300.0, 300.0);
      const ConformalBand band = conformal_band(residuals, 0.8);
      const double factor = std::exp(std::clamp(heavy(random), -300.0, 300.0));
      if (factor >= band.low && factor <= band.high) ++inside;
    }
    // Exact: (ceil((n + 1) 0.9) - floor((n + 1) 0.1)) / (n + 1); 0.02 is three deviations of the trials.
    const auto places = static_cast<double>(count + 1);
    const double exact = (std::ceil(places * 0.9 - 1e-9) - std::floor(places * 0.1 + 1e-9)) / places;
    CHECK(exact >= 0.8);
    CHECK(inside / static_cast<double>(trials) == Approx(exact).margin(0.02));
  }
}

TEST_CASE("random directions keep lengths: unbiased, and as far off as stated") {
  constexpr models::Index dimensions = 200, count = 32;
  const models::Matrix directions = models::random_directions(count, dimensions, 5);
  const Eigen::MatrixXf gram = directions * directions.transpose() * (static_cast<float>(count) / dimensions);
  CHECK((gram - Eigen::MatrixXf::Identity(count, count)).cwiseAbs().maxCoeff() < 1e-5F);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  double sum = 0;
  double squares = 0;
  constexpr int trials = 3000;
  for (int trial = 0; trial < trials; ++trial) {
    Eigen::VectorXf x(dimensions);
    for (float& value : x) value = normal(random);
    const auto ratio = static_cast<double>((directions * x).squaredNorm() / x.squaredNorm());
    sum += ratio;
    squares += ratio * ratio;
  }
  const double mean = sum / trials;
  CHECK(mean == Approx(1).margin(0.02));
  CHECK(std::sqrt(squares / trials - mean * mean) < std::sqrt(2.0 / count));
  CHECK(models::random_directions(dimensions + 1, dimensions, 5).isIdentity(0.0F));
}

TEST_CASE("the summed error of all layers is the length of the sum, exactly where every direction is looked at") {
  TraceShape shape{.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .hidden_size = 24};
  shape.prompt_length = 30;
  shape.length = 42;
  const MemoryTrace trace = random_trace(shape);
  const sim::ReplayPlan plan = plan_of("random,knorm,snapkv(window=4)", {"0.2", "0.5", "1"});
  const ReplayCollector results = replayed(stored_list(trace), plan);
  const std::vector<RunRow> exact = rows_of(trace, plan, {.summed_error_directions = 24});
  const std::vector<RunRow> few = rows_of(trace, plan, {.summed_error_directions = 12});
  REQUIRE(exact.size() == plan.points.size());
  for (std::size_t point = 0; point < exact.size(); ++point) {
    const double expected = exact_summed_error(trace, results, point);
    CHECK(exact[point].damage_index_kind == "summed_error");
    CHECK(exact[point][Metric::damage_index] == Approx(expected).epsilon(1e-4).margin(1e-7));
    CHECK(few[point][Metric::damage_index] == Approx(expected).epsilon(0.25).margin(1e-7));
  }
}

TEST_CASE("summed errors and errors by layer are the same at any number of threads") {
  TraceShape shape{.layers = 6, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .hidden_size = 40};
  shape.with_output_norm = true;
  const MemoryTrace trace = random_trace(shape);
  const sim::ReplayPlan plan = plan_of("random,h2o,tova@host", {"0.3", "0.6"});
  std::vector<RunRow> first;
  for (const int threads : {1, 2, 5}) {
    const std::vector<RunRow> rows = rows_of(trace, plan, {.threads = threads, .summed_error_directions = 16});
    if (first.empty()) first = rows;
    REQUIRE(rows.size() == first.size());
    for (std::size_t row = 0; row < rows.size(); ++row) {
      CHECK(same_bits(std::vector<double>{rows[row][Metric::damage_index]},
                      std::vector<double>{first[row][Metric::damage_index]}));
      CHECK(same_bits(rows[row].layer_squared_errors, first[row].layer_squared_errors));
      CHECK(rows[row].layer_squared_errors.size() == 6);
      const double sum =
          std::accumulate(rows[row].layer_squared_errors.begin(), rows[row].layer_squared_errors.end(), 0.0);
      CHECK(sum == Approx(rows[row][Metric::squared_error]));
    }
  }
}

TEST_CASE("errors along all directions have the lengths that squared errors have, behind a norm too") {
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal;
  const auto made = [&](models::Index rows, models::Index columns) {
    models::Matrix matrix(rows, columns);
    for (models::Index r = 0; r < rows; ++r) {
      for (models::Index c = 0; c < columns; ++c) matrix(r, c) = normal(random);
    }
    return matrix;
  };
  traces::Header header = random_trace({}).header;
  header.norm_kind = traces::NormKind::rms_plus_one;
  header.norm_epsilon = 1e-6;
  for (const bool with_norm : {false, true}) {
    std::optional<models::Norm> norm;
    if (with_norm) norm = models::Norm::of(header, std::vector<float>(20, 0.5F));
    models::OutputProjection projection(made(20, 12), norm);
    projection.look_along(models::random_directions(20, 20, 0));
    const models::Matrix full = made(5, 12);
    const models::Matrix difference = made(15, 12);
    std::vector<double> squared(15);
    projection.error_squared(full, difference, squared);
    const models::Matrix along = projection.error_along(full, difference);
    for (models::Index row = 0; row < 15; ++row) {
      CHECK(static_cast<double>(along.row(row).squaredNorm()) ==
            Approx(squared[static_cast<std::size_t>(row)]).epsilon(1e-4));
    }
  }
}

TEST_CASE("lost sinks are the attention on the first four entries as far as they were evicted") {
  TraceShape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .prompt_length = 30, .length = 40};
  const MemoryTrace trace = random_trace(shape);
  const sim::ReplayPlan plan = plan_of("random,streaming_llm,window,h2o", {"0.2", "0.5", "1"});
  const ReplayCollector results = replayed(stored_list(trace), plan, {.with_resident = true});
  const std::vector<RunRow> rows = rows_of(trace, plan, {});
  for (std::size_t point = 0; point < rows.size(); ++point) {
    double mean = 0;
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const ExactLayer exact(trace, layer);
      const CollectedRows& collected = results.rows.at({point, layer});
      const auto& kept = results.cuts.at({point, layer}).kept;
      for (std::size_t r = 0; r < collected.rows.size(); ++r) {
        for (int head = 0; head < 4; ++head) {
          const auto cache_head = static_cast<std::size_t>(head / 2);
          std::vector<bool> resident = resident_set(kept[cache_head], 30, 40);
          if (!collected.resident_rows.empty()) {
            // What is resident after the row before it attended; the prompt's cut before the first.
            for (std::size_t entry = 0; r > 0 && entry < 40; ++entry) {
              resident[entry] = collected.resident_rows[cache_head][(r - 1) * 40 + entry] == 1;
            }
          }
          const std::vector<double> weights = exact.weights(head, collected.rows[r]);
          for (std::size_t sink = 0; sink < 4; ++sink) mean += resident[sink] ? 0 : weights[sink];
        }
      }
    }
    const double rows_heads = 2.0 * 10 * 4;
    CHECK(rows[point][Metric::lost_sink_mass] == Approx(mean / rows_heads).margin(2e-6));
  }
}
