// Does every registered policy, at its defaults and with every other choice of its parameters, keep the promises that a
// replay relies on?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "policies/registry.h"
#include "tests/support/learned_weights.h"
#include "tests/support/memory_trace_replay.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

/// Every registered policy, and once more for every value of every parameter that is a choice; two formulas. Those that
/// need weights or tables get random ones.
std::vector<policies::Policy> every_policy(const LearnedWeights& weights) {
  std::vector<std::string> texts = {"score: mean(attention, window=32) * norm(v) ^ 0.5",
                                    "formula(expression='zscore(sum(attention)) - rank(age)',schedule=every(steps=2))"};
  for (const policies::Part* part : policies::registered_parts()) {
    if (!part->is_policy) continue;
    texts.push_back(weights.policy(part->name));
    for (const policies::ParameterSpec& parameter : part->parameters) {
      for (const std::string& choice : parameter.choices) {
        if (choice != parameter.default_value) {
          texts.push_back(weights.policy(part->name, parameter.name + "=" + choice));
        }
      }
    }
  }
  std::vector<policies::Policy> policies;
  for (const std::string& text : texts) {
    policies.push_back(policies::parse_policy(text));
    INFO(text);
    REQUIRE(policies.back().needs.parameters.empty());
  }
  return policies;
}

bool walks(const policies::Policy& policy) { return !policy.never_cuts() && policy.schedule->cuts_while_decoding(); }

/// Whether the policy keeps what its own parameters say, whatever the budget.
bool ignores_budget(const policies::Policy& policy) {
  return policy.places_at_any_budget || (!policy.never_cuts() && policy.allocator->ignores_budget());
}

/// Policies that keep more than the budget by their authors' definition.
bool exceeds_budget(const policies::Policy& policy) {
  const auto is = [&](const char* name) { return policy.name.starts_with(name); };
  return is("epikv")                                    // the prompt is never evicted
         || policy.name == "lava(floor_mode=as_code)"   // up to alpha * window entries per head on top
         || is("foresightkv") || is("golden_eviction")  // the newest block is exempt
         || is("chunkkv");                              // whole chunks, one at least
}

/// Long enough for every default window and lag to leave something to choose; a few decode rows.
TraceShape usual() {
  return {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .prompt_length = 150, .length = 156};
}

void require_no_failures(const ReplayCollector& results) {
  for (const auto& [policy, why] : results.failed_policies) FAIL("policy " << policy << " failed: " << why);
  for (const auto& [policy, why] : results.skipped_policies) FAIL("policy " << policy << " was skipped: " << why);
  REQUIRE(results.finished_sequences == 1);
}

std::string label(const sim::ReplayPlan& plan, std::size_t point) {
  return plan.policies[plan.points[point].policy].name + " at " + plan.points[point].budget.text();
}

/// Kept sets are ascending rows of the prompt, as many on average over layers and heads as the budget allows.
void check_prompt_cuts(const sim::ReplayPlan& plan, const ReplayCollector& results,
                       const std::vector<std::size_t>& layers) {
  for (std::size_t point = 0; point < plan.points.size(); ++point) {
    INFO(label(plan, point));
    const policies::Policy& policy = plan.policies[plan.points[point].policy];
    const std::int32_t prompt = results.start.prompt_length;
    double kept_entries = 0;
    double heads = 0;
    bool rows_in_order = true;
    for (const std::size_t layer : layers) {
      const sim::PromptCut& cut = results.cuts.at({point, layer});
      REQUIRE(cut.kept.size() == static_cast<std::size_t>(cut.cache_heads));
      for (const auto& kept : cut.kept) {
        for (std::size_t i = 0; i < kept.size(); ++i) {
          rows_in_order = rows_in_order && kept[i] >= 0 && kept[i] < prompt && (i == 0 || kept[i] > kept[i - 1]);
        }
        kept_entries += static_cast<double>(kept.size());
        ++heads;
      }
    }
    CHECK(rows_in_order);
    if (policy.never_cuts()) {
      CHECK(kept_entries == heads * prompt);
      continue;
    }
    if (ignores_budget(policy) || exceeds_budget(policy)) continue;
    const policies::Budget& budget = plan.points[point].budget;
    const auto all_heads = static_cast<std::int64_t>(heads);
    if (!policy.schedule->due({.row = prompt - 1,
                               .resident = prompt,
                               .entries = budget.entries(prompt),
                               .total = all_heads * prompt,
                               .heads = all_heads})) {
      CHECK(kept_entries == heads * prompt);  // trimkv leaves a prompt whole that is little longer than the budget
      continue;
    }
    const double allowed = budget.in_entries() ? budget.value() : std::max(1.0, prompt * budget.value());
    // Half an entry: allocators that split over layers round every layer's count instead of truncating it.
    CHECK(kept_entries / heads <= allowed + 0.5);
    if (policy.expansion.find("allocator=uniform") != std::string::npos) {
      CHECK(kept_entries / heads <= static_cast<double>(budget.entries(prompt)));
    }
    CHECK(kept_entries > 0);
  }
}

/// After a cut that was due, no more is resident than the budget allows.
void check_residency(const sim::ReplayPlan& plan, const ReplayCollector& results, std::size_t layers) {
  for (std::size_t point = 0; point < plan.points.size(); ++point) {
    const policies::Policy& policy = plan.policies[plan.points[point].policy];
    // A placement may attend what was cut as well (kivi): its own tests hold it to its budget.
    if (!walks(policy) || policy.places() || ignores_budget(policy) || exceeds_budget(policy) ||
        plan.points[point].budget.unlimited()) {
      continue;
    }
    INFO(label(plan, point));
    const std::int32_t prompt = results.start.prompt_length;
    const auto allowed = plan.points[point].budget.entries(prompt);
    const std::size_t rows = results.rows.at({point, 0}).rows.size();
    for (std::size_t r = 0; r < rows; ++r) {
      double resident = 0;
      double heads = 0;
      std::int32_t longest = 0;
      for (std::size_t layer = 0; layer < layers; ++layer) {
        const CollectedRows& collected = results.rows.at({point, layer});
        const std::size_t per_row = collected.resident.size() / rows;
        for (std::size_t head = 0; head < per_row; ++head) {
          const std::int32_t left = collected.resident[r * per_row + head] - collected.evicted[r * per_row + head];
          longest = std::max(longest, left);
          resident += left;
          ++heads;
        }
      }
      const std::int32_t row = results.rows.at({point, 0}).rows[r];
      if (policy.schedule->due({.decoded = row - prompt + 1, .row = row, .resident = longest, .entries = allowed})) {
        CHECK(resident / heads <= static_cast<double>(allowed) + 0.5);
      }
    }
  }
}

void check_finite(const sim::ReplayPlan& plan, const ReplayCollector& results) {
  for (const auto& [key, rows] : results.rows) {
    INFO(label(plan, key.first));
    bool sound = true;
    for (std::size_t i = 0; i < rows.retained_mass.size(); ++i) {
      sound = sound && rows.retained_mass[i] >= 0 && rows.retained_mass[i] <= 1 && rows.output_error[i] >= 0 &&
              std::isfinite(rows.output_error[i]) && rows.entropy[i] >= 0 && std::isfinite(rows.entropy[i]);
    }
    for (const double squared : rows.error_squared) sound = sound && squared >= 0 && std::isfinite(squared);
    CHECK(sound);
  }
}

const std::vector<std::size_t> all_three = {0, 1, 2};

}  // namespace

TEST_CASE("the registry holds the policies that the documents name") {
  std::vector<std::string> names;
  for (const policies::Policy& policy : policies::parse_policies("all")) names.push_back(policy.name);
  for (const char* name :
       {"adakv", "expected_attention", "full", "h2o", "keydiff", "knorm", "lagkv", "observed_attention", "oracle_mass",
        "pyramidkv", "random", "snapkv", "streaming_llm", "tova", "window"}) {
    CHECK(std::count(names.begin(), names.end(), name) == 1);
  }
}

TEST_CASE("budgets hold, from one entry to more than the prompt") {
  const LearnedWeights weights(usual());
  const MemoryTrace trace = random_trace(usual());
  // int(150 * 0.007) = 1 entry
  const auto plan = sim::ReplayPlan::of(
      every_policy(weights), budgets_of({"0.007", "2", "5", "0.2", "70", "0.9", "149", "150", "152", "400"}));
  const ReplayCollector results = replayed(stored_list(trace), plan);
  require_no_failures(results);
  check_prompt_cuts(plan, results, all_three);
  check_residency(plan, results, 3);
  check_finite(plan, results);
}

TEST_CASE("the full budget loses nothing") {
  const LearnedWeights weights(usual());
  const MemoryTrace trace = random_trace(usual());
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"1"}));
  const ReplayCollector results = replayed(stored_list(trace), plan);
  require_no_failures(results);
  const auto promises = [&](std::size_t point) { return !ignores_budget(plan.policies[plan.points[point].policy]); };
  for (const auto& [key, rows] : results.rows) {
    INFO(label(plan, key.first));
    if (!promises(key.first)) continue;
    CHECK(*std::max_element(rows.output_error.begin(), rows.output_error.end()) == 0.0F);
    CHECK(*std::max_element(rows.error_squared.begin(), rows.error_squared.end()) == 0.0);
    CHECK(*std::min_element(rows.retained_mass.begin(), rows.retained_mass.end()) > 1 - 1e-5F);
    CHECK(*std::max_element(rows.evicted.begin(), rows.evicted.end()) == 0);
  }
  for (const auto& [key, cut] : results.cuts) {
    if (!promises(key.first)) continue;
    for (const auto& kept : cut.kept) CHECK(kept.size() == 150);
  }
}

TEST_CASE("two runs are the same, at any number of threads") {
  const LearnedWeights weights(usual());
  const MemoryTrace trace = random_trace(usual());
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"0.1", "40"}));
  const sim::ReplayOptions one{.threads = 1, .seed = 5, .with_scores = true, .with_resident = true};
  sim::ReplayOptions several = one;
  several.threads = 3;
  const ReplayCollector first = replayed(stored_list(trace), plan, one);
  require_no_failures(first);
  CHECK(same_results(first, replayed(stored_list(trace), plan, one)));
  CHECK(same_results(first, replayed(stored_list(trace), plan, several)));
}

TEST_CASE("no causal policy sees what comes later") {
  const TraceShape shape = usual();
  const LearnedWeights weights(shape);
  const MemoryTrace trace = random_trace(shape);
  // The rows after the prompt, or only the last of them, are of another trace.
  const std::int32_t first_changed = GENERATE(150, 153);
  TraceShape other_shape = shape;
  other_shape.seed = 99;
  const MemoryTrace other = random_trace(other_shape);
  MemoryTrace changed = trace;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const traces::LayerTensors& source = other.sequences[0].layers[layer];
    traces::LayerTensors& target = changed.sequences[0].layers[layer];
    const auto copy = [&](const std::vector<float>& from, std::vector<float>& to) {
      for (std::size_t i = 0; i < to.size(); ++i) {
        if ((i / 8) % 156 >= static_cast<std::size_t>(first_changed)) to[i] = from[i];
      }
    };
    copy(source.k, target.k);
    copy(source.v, target.v);
    copy(source.q, target.q);
  }
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"0.2", "70"}));
  const sim::ReplayOptions options{.with_scores = true, .with_resident = true};
  const ReplayCollector before = replayed(stored_list(trace), plan, options);
  const ReplayCollector after = replayed(stored_list(changed), plan, options);
  require_no_failures(before);
  for (std::size_t point = 0; point < plan.points.size(); ++point) {
    INFO(label(plan, point));
    const policies::Policy& policy = plan.policies[plan.points[point].policy];
    bool same = true;
    bool same_metrics = true;
    for (std::size_t layer = 0; layer < 3; ++layer) {
      sim::PromptCut left = before.cuts.at({point, layer});
      sim::PromptCut right = after.cuts.at({point, layer});
      left.oracle_overlap.clear();  // this one is about the future
      right.oracle_overlap.clear();
      same = same && same_cut(left, right);
      const CollectedRows& rows = before.rows.at({point, layer});
      const CollectedRows& others = after.rows.at({point, layer});
      same_metrics = same_metrics && same_bits(rows.retained_mass, others.retained_mass);
      // Residency before the change: the row that attends first is `first_changed` itself.
      const auto unchanged = static_cast<std::size_t>(first_changed - 150);
      const std::size_t per_row = rows.resident.size() / rows.rows.size();
      const auto upto = [](const auto& values, std::size_t count) {
        return std::vector(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count));
      };
      same = same && upto(rows.resident, unchanged * per_row) == upto(others.resident, unchanged * per_row);
      for (std::size_t head = 0; head < rows.resident_rows.size(); ++head) {
        same = same &&
               upto(rows.resident_rows[head], unchanged * 156) == upto(others.resident_rows[head], unchanged * 156);
      }
    }
    CHECK(same == !policy.is_oracle());
    CHECK_FALSE(same_metrics);  // the change was seen by the replay itself unless nothing was evicted
  }
}

TEST_CASE("prompts of a few tokens, and few or no decode rows") {
  // 64: the default window of snapkv and its kin
  const std::int32_t prompt = GENERATE(1, 2, 3, 64, 65);
  const std::int32_t decoded = GENERATE(0, 1, 4);
  TraceShape shape = usual();
  shape.prompt_length = prompt;
  shape.length = prompt + decoded;
  const LearnedWeights weights(shape);
  const MemoryTrace trace = random_trace(shape);
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"0.3", "0.7", "2", "64", "1"}));
  const ReplayCollector results = replayed(stored_list(trace), plan);
  require_no_failures(results);
  CHECK(results.cuts.size() == 3 * plan.points.size());
  CHECK(results.rows.size() == (decoded == 0 ? 0 : 3 * plan.points.size()));
  check_prompt_cuts(plan, results, all_three);
  if (decoded > 0) check_residency(plan, results, 3);
  check_finite(plan, results);
}

TEST_CASE("any group size, one KV head or more, any stored type") {
  const int group = GENERATE(1, 2, 3, 4, 8);
  const int kv_heads = GENERATE(1, 2);
  const auto type = GENERATE(traces::TensorType::float16, traces::TensorType::bfloat16, traces::TensorType::float32);
  TraceShape shape = usual();
  shape.layers = 1;
  shape.kv_heads = kv_heads;
  shape.query_heads = kv_heads * group;
  const LearnedWeights weights(shape);
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"0.1", "1"}));
  const ReplayCollector results = replayed(stored_list(random_trace(shape), type), plan);
  require_no_failures(results);
  CHECK(results.start.stored_bytes == (type == traces::TensorType::float32 ? 4 : 2));
  check_prompt_cuts(plan, results, {0});
  check_residency(plan, results, 1);
  check_finite(plan, results);
}

TEST_CASE("soft cap, and a layer with a sliding window among full ones") {
  TraceShape shape = usual();
  shape.softcap = 5;
  shape.sliding_window = {0, 30, 0};
  const LearnedWeights weights(shape);
  const MemoryTrace trace = random_trace(shape);
  const auto plan = sim::ReplayPlan::of(every_policy(weights), budgets_of({"0.1", "60", "1"}));
  const ReplayCollector results = replayed(stored_list(trace), plan);
  require_no_failures(results);
  check_prompt_cuts(plan, results, {0, 2});  // together: some policies move entries between layers
  check_finite(plan, results);
  for (std::size_t point = 0; point < plan.points.size(); ++point) {
    INFO(label(plan, point));
    // The window's layer is left alone: it holds what its window sees.
    const CollectedRows& rows = results.rows.at({point, 1});
    CHECK(*std::max_element(rows.output_error.begin(), rows.output_error.end()) == 0.0F);
    for (const std::int32_t resident : rows.resident) CHECK(resident == 30);
    for (const auto& kept : results.cuts.at({point, 1}).kept) {
      CHECK(kept.size() == 30);
      CHECK(kept.front() == 120);
    }
  }
}

TEST_CASE("a trace without the queries that a policy needs") {
  TraceShape shape = usual();
  for (std::int32_t row = shape.prompt_length; row < shape.length; row += 2) shape.q_rows.push_back(row);
  const MemoryTrace trace = random_trace(shape);
  const LearnedWeights weights(shape);
  const std::vector<policies::Policy> policies = every_policy(weights);
  const auto plan = sim::ReplayPlan::of(policies, budgets_of({"0.2"}));
  const ReplayCollector results = replayed(stored_list(trace), plan, {.skip_missing_needs = true});
  CHECK(results.failed_policies.empty());
  int with_needs = 0;
  for (std::size_t index = 0; index < policies.size(); ++index) {
    INFO(policies[index].name);
    const policies::Needs& needs = policies[index].needs;
    const bool lacks = needs.window_queries > 0 || needs.all_queries || needs.decode_attention;
    const auto alone = sim::ReplayPlan::of({policies[index]}, budgets_of({"0.2"}));
    CHECK(results.skipped_policies.count(index) == (lacks ? 1 : 0));
    CHECK(results.rows.count({index, 0}) == (lacks ? 0 : 1));
    if (!lacks) continue;
    ++with_needs;
    CHECK(results.skipped_policies.at(index).find("/sequences/000000/layer_000/q") != std::string::npos);
    try {
      replayed(stored_list(trace), alone);
      FAIL("ran without its queries");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::missing_need);
      CHECK(error.message().find("/sequences/000000/layer_000/q") != std::string::npos);
      CHECK(error.context().parameter == policies[index].name);
    }
  }
  CHECK(with_needs > 3);
}
