// Does a replay obey the closed forms: the error identity, the dilution law, uniform attention, the exhaustive optimum?
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/support/memory_trace_exact.h"
#include "tests/support/memory_trace_replay.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

double norm(const std::vector<double>& values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

/// Sums of the full softmax over some entries, and the mean of their values weighted by it.
struct Part {
  double mass = 0;
  std::vector<double> mean;
};

Part part_of(const ExactLayer& exact, int query_head, const std::vector<double>& weights,
             const std::vector<bool>& resident, bool kept) {
  std::vector<double> chosen = weights;
  Part part;
  for (std::size_t j = 0; j < chosen.size(); ++j) {
    if (resident[j] != kept) chosen[j] = 0;
    part.mass += chosen[j];
  }
  part.mean = exact.output(query_head, chosen);
  for (double& value : part.mean) value /= part.mass;
  return part;
}

TraceShape shape_of(std::uint64_t seed) {
  TraceShape shape{.layers = 3, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 40, .length = 50};
  shape.seed = seed;
  return shape;
}

}  // namespace

TEST_CASE("the full cache loses nothing under any policy") {
  const MemoryTrace trace = random_trace(shape_of(1));
  std::vector<policies::Policy> with_budget;
  for (policies::Policy& policy : policies::parse_policies("all")) {
    if (policy.places_at_any_budget) continue;
    if (policy.never_cuts() || !policy.allocator->ignores_budget()) with_budget.push_back(std::move(policy));
  }
  const ReplayCollector results =
      replayed(stored_list(trace), sim::ReplayPlan::of(with_budget, budgets_of({"1"})), {.skip_missing_needs = true});
  CHECK(results.rows.size() % 3 == 0);
  CHECK(results.rows.size() >= 3 * 50);
  for (const auto& [key, rows] : results.rows) {
    CHECK(*std::max_element(rows.output_error.begin(), rows.output_error.end()) == 0.0F);
    CHECK(*std::max_element(rows.error_squared.begin(), rows.error_squared.end()) == 0.0);
    CHECK(*std::min_element(rows.retained_mass.begin(), rows.retained_mass.end()) == Approx(1.0));
    // Nothing is diluted: what is reported before and after agrees.
    const CollectedRows& full = results.full.at(key.second);
    for (std::size_t i = 0; i < full.dilution.size(); ++i) {
      CHECK(rows.dilution[i] == Approx(full.dilution[i]).margin(1e-6));
      CHECK(rows.entropy[i] == Approx(full.entropy[i]).margin(1e-5));
    }
  }
}

TEST_CASE("the output moves by the lost mass times the distance of what left from what stayed") {
  const MemoryTrace trace = random_trace(shape_of(2));
  const ReplayCollector results =
      replayed(trace, "random,knorm,snapkv(window=8),adakv(snapkv(window=8))", {"0.1", "0.5"});
  for (const auto& [key, rows] : results.rows) {
    const ExactLayer exact(trace, key.second);
    const sim::PromptCut& cut = results.cuts.at(key);
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      std::vector<double> moved;
      std::vector<double> full_heads;
      for (int h = 0; h < 6; ++h) {
        const std::vector<bool> resident =
            resident_set(cut.kept[static_cast<std::size_t>(h * cut.cache_heads / 6)], 40, 50);
        const std::vector<double> weights = exact.weights(h, rows.rows[r]);
        const Part stayed = part_of(exact, h, weights, resident, true);
        const Part left = part_of(exact, h, weights, resident, false);
        const std::vector<double> full = exact.output(h, weights);
        std::vector<double> difference;
        for (std::size_t c = 0; c < full.size(); ++c) difference.push_back(left.mass * (stayed.mean[c] - left.mean[c]));
        const std::size_t at = r * 6 + static_cast<std::size_t>(h);
        CHECK(rows.retained_mass[at] == Approx(1 - left.mass).margin(1e-5));
        CHECK(rows.output_error[at] == Approx(norm(difference) / norm(full)).margin(1e-5).epsilon(1e-4));
        moved.insert(moved.end(), difference.begin(), difference.end());
        full_heads.insert(full_heads.end(), full.begin(), full.end());
      }
      // Behind W_O, over all heads together.
      CHECK(rows.error_squared[r] == Approx(exact.projected_squared(moved)).epsilon(1e-3).margin(1e-6));
      CHECK(rows.output_squared[r] == Approx(exact.projected_squared(full_heads)).epsilon(1e-4));
    }
  }
}

TEST_CASE("squared error is the sum over layers of the mean squared error behind W_O") {
  const MemoryTrace trace = random_trace(shape_of(3));
  const ReplayCollector results = replayed(trace, "keydiff", {"0.25"});
  double reported = 0;
  double direct = 0;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const ExactLayer exact(trace, layer);
    const CollectedRows& rows = results.rows.at({0, layer});
    const auto& kept = results.cuts.at({0, layer}).kept;
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      reported += rows.error_squared[r] / 10;
      std::vector<double> moved;
      for (int h = 0; h < 6; ++h) {
        const std::vector<bool> resident = resident_set(kept[static_cast<std::size_t>(h / 3)], 40, 50);
        const ExactLayer::Metrics metrics = exact.metrics(h, rows.rows[r], resident, {});
        moved.insert(moved.end(), metrics.difference.begin(), metrics.difference.end());
      }
      direct += exact.projected_squared(moved) / 10;
    }
  }
  CHECK(direct > 0.1);
  CHECK(reported == Approx(direct).epsilon(1e-4));
}

TEST_CASE("dilution follows from what is kept of the useful and of the other entries") {
  TraceShape shape = shape_of(4);
  shape.evidence = {{3, 9}, {20, 26}};
  const MemoryTrace trace = random_trace(shape);
  const ReplayCollector results = replayed(trace, "random,knorm,oracle_mass,snapkv(window=8)", {"0.1", "0.3", "0.6"});
  int sharper = 0;
  int duller = 0;
  for (const auto& [key, rows] : results.rows) {
    const ExactLayer exact(trace, key.second);
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      for (int h = 0; h < 6; ++h) {
        const std::vector<bool> resident =
            resident_set(results.cuts.at(key).kept[static_cast<std::size_t>(h / 3)], 40, 50);
        const std::vector<double> weights = exact.weights(h, rows.rows[r]);
        double useful = 0, useful_kept = 0, other = 0, other_kept = 0;
        for (std::size_t j = 0; j < weights.size(); ++j) {
          const bool is_useful = (j >= 3 && j < 9) || (j >= 20 && j < 26);
          (is_useful ? useful : other) += weights[j];
          if (resident[j]) (is_useful ? useful_kept : other_kept) += weights[j];
        }
        const double share_useful = useful_kept / useful;
        const double share_other = other_kept / other;
        const double before = 1 - useful;
        const double after = share_other * before / (share_useful * (1 - before) + share_other * before);
        const std::size_t at = r * 6 + static_cast<std::size_t>(h);
        CHECK(results.full.at(key.second).dilution[at] == Approx(before).margin(1e-5));
        CHECK(rows.dilution[at] == Approx(after).margin(1e-5));
        // It falls where relatively more of the useful entries stays, and rises where less does.
        if (std::abs(share_useful - share_other) > 1e-3 && before > 1e-3 && before < 1 - 1e-3) {
          const bool falls = rows.dilution[at] < results.full.at(key.second).dilution[at];
          CHECK(falls == (share_useful > share_other));
          ++(falls ? sharper : duller);
        }
      }
    }
  }
  CHECK(sharper > 50);
  CHECK(duller > 50);
}

TEST_CASE("distractors whose logits come near the useful ones' dilute attention, whatever the model") {
  TraceShape shape = shape_of(5);
  shape.evidence = {{3, 5}, {20, 22}};
  MemoryTrace trace = random_trace(shape);
  for (float& component : trace.sequences[0].layers[0].q) component = 0;  // all logits of layer 0 tie
  const ReplayCollector results = replayed(trace, "full", {"1"});
  int bounds = 0;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const ExactLayer exact(trace, layer);
    const CollectedRows& full = results.full.at(layer);
    const CollectedRows& rows = results.rows.at({0, layer});
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      for (int h = 0; h < 6; ++h) {
        const std::vector<double> weights = exact.weights(h, rows.rows[r]);
        const auto is_useful = [](std::size_t j) { return (j >= 3 && j < 5) || (j >= 20 && j < 22); };
        double best = 0;
        for (std::size_t j = 0; j < weights.size(); ++j) best = is_useful(j) ? std::max(best, weights[j]) : best;
        const double dilution = static_cast<double>(full.dilution[r * 6 + static_cast<std::size_t>(h)]);
        if (layer == 0) {
          const auto visible = static_cast<double>(rows.rows[r] + 1);
          CHECK(dilution == Approx((visible - 4) / visible).margin(1e-6));
        }
        for (const double gap : {0.0, 0.5, 2.0}) {
          // Logits at least the best useful one less `gap`: weights at least exp(-gap) of its own.
          double near = 0;
          for (std::size_t j = 0; j < weights.size(); ++j) {
            if (!is_useful(j) && weights[j] >= best * std::exp(-gap) * (1 - 1e-12)) ++near;
          }
          const double least = near * std::exp(-gap);
          CHECK(dilution >= least / (4 + least) - 1e-6);
          bounds += near > 0 ? 1 : 0;
        }
      }
    }
  }
  CHECK(bounds > 100);
}

TEST_CASE("a window over uniform attention and linear values") {
  // Queries of zero attend evenly; the value of row j is j. Then everything is a ratio of small numbers.
  TraceShape shape{.layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt_length = 40, .length = 52};
  MemoryTrace trace = random_trace(shape);
  for (std::int32_t row = 0; row < shape.length; ++row) {
    for (int component = 0; component < 4; ++component) {
      for (int head = 0; head < 4; ++head) trace.query(0, head, row, component) = 0;
      for (int head = 0; head < 2; ++head)
        trace.value(0, head, row, component) = component == 0 ? static_cast<float>(row) : 0.0F;
    }
  }
  const int budget = GENERATE(2, 7, 16);
  const ReplayCollector results = replayed(trace, "window", {std::to_string(budget)});
  const CollectedRows& rows = results.rows.at({0, 0});
  REQUIRE(rows.rows.size() == 12);
  for (std::size_t r = 0; r < rows.rows.size(); ++r) {
    const double t = rows.rows[r];
    for (std::size_t h = 0; h < 4; ++h) {
      // Row t attends itself and the `budget` rows before it.
      CHECK(rows.retained_mass[r * 4 + h] == Approx((budget + 1) / (t + 1)));
      CHECK(rows.entropy[r * 4 + h] == Approx(std::log(budget + 1)));
      CHECK(rows.output_error[r * 4 + h] == Approx((t - budget) / t).epsilon(1e-5));
      CHECK(results.full.at(0).entropy[r * 4 + h] == Approx(std::log(t + 1)));
    }
    for (std::size_t head = 0; head < 2; ++head) {
      CHECK(rows.resident[r * 2 + head] == budget + 1);
      CHECK(rows.evicted[r * 2 + head] == 1);
    }
  }
}

TEST_CASE("no set of the same size retains more mass than the oracle's") {
  TraceShape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt_length = 10, .length = 16};
  shape.seed = GENERATE(1U, 2U, 3U);
  const MemoryTrace trace = random_trace(shape);
  const ReplayCollector oracle = replayed(trace, "oracle_mass", {"2", "3", "5", "9"});
  const std::vector<std::size_t> sizes = {2, 3, 5, 9};
  for (const auto& [key, rows] : oracle.rows) {
    const ExactLayer exact(trace, key.second);
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      // Mass that every prompt entry receives from all rows of both query heads.
      std::vector<double> received(10, 0.0);
      double decoded = 0;  // decode rows are always resident
      double reported = 0;
      for (const int h : {2 * kv_head, 2 * kv_head + 1}) {
        const std::vector<double> mass = exact.mass(h, exact.decode_rows());
        for (std::size_t j = 0; j < 10; ++j) received[j] += mass[j];
        decoded += 6 - std::accumulate(mass.begin(), mass.end(), 0.0);
        for (std::size_t r = 0; r < 6; ++r)
          reported += static_cast<double>(rows.retained_mass[r * 4 + static_cast<std::size_t>(h)]);
      }
      double best = 0;
      for (unsigned subset = 0; subset < 1U << 10U; ++subset) {
        if (static_cast<std::size_t>(std::popcount(subset)) != sizes[key.first]) continue;
        double mass = 0;
        for (std::size_t j = 0; j < 10; ++j) mass += (subset >> j & 1U) != 0 ? received[j] : 0;
        best = std::max(best, mass);
      }
      CHECK(reported == Approx(best + decoded).margin(1e-4));
      CHECK(oracle.cuts.at(key).oracle_overlap[static_cast<std::size_t>(kv_head)] == 1.0);
    }
    for (const float regret : rows.regret) CHECK(regret == Approx(0).margin(1e-6));
    CHECK(std::accumulate(rows.oracle_gain.begin(), rows.oracle_gain.end(), 0.0) > 0);
  }
}

TEST_CASE("random cuts retain their size's share of what the prompt receives, and never more than the oracle") {
  TraceShape shape{.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 4, .prompt_length = 10, .length = 16};
  const MemoryTrace trace = random_trace(shape);
  const auto readers = stored_list(trace);
  const ExactLayer exact(trace);
  double prompt_mass = 0;
  for (const int h : {0, 1}) {
    const std::vector<double> mass = exact.mass(h, exact.decode_rows());
    prompt_mass += std::accumulate(mass.begin(), mass.end(), 0.0);
  }
  const auto total = [](const CollectedRows& rows) {
    return std::accumulate(rows.retained_mass.begin(), rows.retained_mass.end(), 0.0);
  };
  const auto plan = sim::ReplayPlan::of(policies::parse_policies("random,oracle_mass"), budgets_of({"4"}));
  const auto sum_of = [](const std::vector<float>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  };
  double sum = 0;
  double normalised_regret = 0;
  constexpr int seeds = 300;
  for (int seed = 0; seed < seeds; ++seed) {
    const ReplayCollector results = replayed(readers, plan, {.threads = 1, .seed = static_cast<std::uint64_t>(seed)});
    const double random = total(results.rows.at({0, 0}));
    CHECK(random <= total(results.rows.at({1, 0})) + 1e-5);
    sum += random;
    const CollectedRows& rows = results.rows.at({0, 0});
    CHECK(sum_of(rows.regret) == Approx(total(results.rows.at({1, 0})) - random).margin(1e-4));
    CHECK(sum_of(rows.oracle_gain) == sum_of(results.rows.at({1, 0}).oracle_gain));
    normalised_regret += sum_of(rows.regret) / sum_of(rows.oracle_gain) / seeds;
  }
  // 4 of 10 entries: the expected loss is 6/10 of the prompt's mass. One draw's standard deviation is below a quarter
  // of it, so the mean of 300 lies within 5 of its own (0.072 of the prompt's mass) with near certainty.
  CHECK(sum / seeds == Approx(12 - 0.6 * prompt_mass).margin(0.072 * prompt_mass));
  // The regret is the gain minus what the draw has over its expectation, so its unit is as well known.
  const double gain = sum_of(replayed(readers, plan).rows.at({1, 0}).oracle_gain);
  CHECK(normalised_regret == Approx(1).margin(0.072 * prompt_mass / gain));
}

TEST_CASE("work spent on scoring: the prompt once, or what is resident at every cut") {
  const MemoryTrace trace = random_trace(shape_of(5));  // 40 + 10 tokens, 2 KV heads
  const ReplayCollector results =
      replayed(trace, "knorm,full,knorm(schedule=every(steps=1)),knorm(schedule=every(steps=4))", {"10"});
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const auto prompt = [&](std::size_t point) { return results.cuts.at({point, layer}).scored_entries; };
    const auto rows = [&](std::size_t point) { return results.rows.at({point, layer}); };
    CHECK(prompt(0) == 2 * 40);
    CHECK(rows(0).cuts == 0);
    CHECK(rows(0).scored_entries == 0);
    CHECK(prompt(1) == 0);
    CHECK(rows(1).scored_entries == 0);
    CHECK(prompt(2) == 2 * 40);
    CHECK(rows(2).cuts == 10);
    CHECK(rows(2).scored_entries == 2 * 10 * 11);
    CHECK(prompt(3) == 2 * 40);
    CHECK(rows(3).cuts == 2);
    CHECK(rows(3).scored_entries == 2 * 2 * 14);
  }
}
