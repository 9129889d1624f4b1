// Do policies that run inside llama.cpp give what the model would have given, had it really lost what they cut?

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <optional>
#include <set>
#include <string>

#include "policies/policy.h"
#include "tests/capture/exact_capture.h"
#include "tests/capture/reference_model.h"
#include "traces/capture/damage/captured_text.h"
#include "traces/capture/damage/closed_run.h"
#include "traces/capture/damage/sensitivity.h"
#include "traces/capture/damage/verify.h"
#include "traces/slice.h"

namespace evictsim::tests {
namespace {

constexpr std::size_t prompt_length = 70;
constexpr std::size_t rows = 12;

EngineSettings exact_engine() { return {.flash_attention = FlashAttention::off, .cache_type = CacheType::float32}; }

std::vector<std::int32_t> tokens() {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < prompt_length + rows; ++i) {
    ids.push_back(first_byte + static_cast<std::int32_t>((i * i * 7 + 11 * i) % 97 + 32));
  }
  return ids;
}

SequencePlan text(const std::string& id = "text") {
  const std::vector<std::int32_t> ids = tokens();
  SequencePlan plan;
  plan.id = id;
  plan.prompt_tokens.assign(ids.begin(), ids.begin() + prompt_length);
  plan.continuation_tokens.assign(ids.begin() + prompt_length, ids.end());
  return plan;
}

sim::ReplayPlan points(const std::string& policies, const std::vector<std::string>& budgets) {
  std::vector<policies::Budget> parsed;
  for (const std::string& budget : budgets) parsed.push_back(policies::Budget::parse(budget));
  return sim::ReplayPlan::of(policies::parse_policies(policies), parsed);
}

const std::atomic<bool> never = false;

/// The tiny model with one text, and policies that run in it.
struct Run {
  explicit Run(sim::ReplayPlan points_to_run, TinyModel description = {})
      : tiny(std::move(description)),
        file(scratch("damage-" + tiny.architecture + ".gguf")),
        weights(write_tiny_model(file, tiny)),
        model(file, exact_engine(), everything(true)),
        captured(model, text(), {}, control),
        plan(std::move(points_to_run)),
        open(replay_trace(captured.reader(), plan, options, never)) {
    for (std::size_t i = 0; i < plan.policies.size(); ++i) policies.insert(i);
    cuts = open.cuts;
    closed.emplace(model, captured.reader(), plan, options, open, policies, control);
  }

  TinyModel tiny;
  fs::path file;
  TinyWeights weights;
  RunControl control{.progress = {}, .stop = &never};
  CapturedModel model;
  CapturedText captured;
  sim::ReplayPlan plan;
  sim::ReplayOptions options;
  OpenLoop open;
  std::vector<sim::PromptCut> cuts;
  std::set<std::size_t> policies;
  std::optional<ClosedRun> closed;
};

/// Mean over the rows behind the prompt.
double mean_kl(const ReferencePass& full, const ReferencePass& other) {
  double sum = 0;
  for (std::size_t row = prompt_length; row < prompt_length + rows; ++row) {
    sum += reference_kl(full.logits[row], other.logits[row]);
  }
  return sum / static_cast<double>(rows);
}

bool everything_attends(int /*layer*/, int /*kv_head*/, std::size_t /*row*/, std::size_t /*entry*/) { return true; }

/// Rows behind the prompt attend what a point kept of it, in one layer or (-1) in all, and each other.
Attends kept_by(const Run& run, std::size_t point, int only_layer = -1) {
  return [&run, point, only_layer](int layer, int kv_head, std::size_t row, std::size_t entry) {
    if (row < prompt_length || entry >= prompt_length || (only_layer >= 0 && layer != only_layer)) return true;
    for (const sim::PromptCut& cut : run.cuts) {
      if (cut.point != point || cut.layer != static_cast<std::size_t>(layer)) continue;
      const auto& kept = cut.kept[static_cast<std::size_t>(kv_head)];
      return std::binary_search(kept.begin(), kept.end(), static_cast<std::int32_t>(entry));
    }
    return false;
  };
}

}  // namespace

TEST_CASE("writing back the bytes that were there changes nothing, other bytes change the logits") {
  Run run(points("knorm", {"0.5"}));
  Continuation continuation(run.model, token_ids(run.captured.reader()), prompt_length, false, run.control);
  const auto copy = [](std::span<const float> logits) { return std::vector<float>(logits.begin(), logits.end()); };
  const std::vector<float> plain = copy(continuation.run());
  std::size_t calls = 0;
  const std::vector<float> same = copy(continuation.run([&](std::size_t, const LayerRows& found, std::span<float> out) {
    ++calls;
    CHECK(found.query.size() == rows * 64);
    CHECK(out.size() == rows * 64);
    return true;
  }));
  CHECK(calls == 3);
  CHECK(same == plain);
  const std::vector<float> halved =
      copy(continuation.run([&](std::size_t layer, const LayerRows&, std::span<float> out) {
        for (float& value : out) value *= 0.5F;
        return layer == 1;
      }));
  CHECK(halved != plain);
  CHECK(copy(continuation.run()) == plain);
  CHECK_THROWS_AS(continuation.run([](std::size_t, const LayerRows&, std::span<float>) -> bool {
    throw Error(ErrorCode::policy_failure, "on purpose");
  }),
                  Error);
  CHECK(copy(continuation.run()) == plain);
}

TEST_CASE("a budget of 1 leaves the model as it is, also with attention computed by the replay's code") {
  const std::string architecture = GENERATE("llama", "qwen2", "gemma2");
  TinyModel tiny;
  tiny.architecture = architecture;
  if (architecture != "llama") tiny.hidden = tiny.query_heads * tiny.head_dim;
  Run run(points("snapkv(window=8),tova,h2o", {"1"}), tiny);
  CHECK(run.closed->run_uncut().kl < 1e-6);
  for (std::size_t point = 0; point < run.plan.points.size(); ++point) {
    const NextTokenChange change = run.closed->run(point);
    CHECK(change.kl < 1e-6);
    CHECK(change.top1_agreement == 1);
    CHECK(std::abs(change.nll_change) < 1e-6);
  }
}

TEST_CASE("KL, NLL and top-1 of a cut model are those of the model computed in double precision with the same cut") {
  Run run(points("snapkv(window=8),adakv(knorm),pyramidkv(window=8),random", {"0.2", "0.5"}));
  const std::vector<std::int32_t> ids = tokens();
  const ReferencePass full = reference_pass(run.tiny, run.weights, ids, everything_attends);
  for (std::size_t point = 0; point < run.plan.points.size(); ++point) {
    INFO(run.plan.policies[run.plan.points[point].policy].name << " " << run.plan.points[point].budget.text());
    const ReferencePass cut = reference_pass(run.tiny, run.weights, ids, kept_by(run, point));
    const NextTokenChange change = run.closed->run(point);
    const double expected = mean_kl(full, cut);
    CHECK(expected > 1e-4);
    // Float32 logits carry 1e-6; KL is a difference of them.
    CHECK(change.kl == Approx(expected).epsilon(1e-3).margin(2e-6));
    double nll = 0, same = 0;
    for (std::size_t row = prompt_length; row < prompt_length + rows; ++row) {
      const auto best = [&](const ReferencePass& pass) {
        return std::max_element(pass.logits[row].begin(), pass.logits[row].end()) - pass.logits[row].begin();
      };
      same += best(full) == best(cut) ? 1 : 0;
      if (row + 1 == prompt_length + rows) continue;
      std::vector<double> certain(full.logits[row].size(), -1e9);
      certain[static_cast<std::size_t>(ids[row + 1])] = 0;
      nll += reference_kl(certain, cut.logits[row]) - reference_kl(certain, full.logits[row]);
    }
    CHECK(change.top1_agreement == Approx(same / rows));
    CHECK(change.nll_change == Approx(nll / (rows - 1)).epsilon(1e-3).margin(1e-5));
  }
}

TEST_CASE("a policy that cuts at every decoded row has lost each entry from the row after its cut on") {
  Run run(points("window(schedule=every(steps=1))", {"20"}));
  const std::vector<std::int32_t> ids = tokens();
  const ReferencePass full = reference_pass(run.tiny, run.weights, ids, everything_attends);
  // The 20 newest entries before the row, and the row.
  const ReferencePass cut = reference_pass(
      run.tiny, run.weights, ids,
      [](int, int, std::size_t row, std::size_t entry) { return row < prompt_length || entry + 20 >= row; });
  CHECK(run.closed->run(0).kl == Approx(mean_kl(full, cut)).epsilon(1e-3).margin(2e-6));
}

TEST_CASE("a policy that cuts by attention while decoding sees the attention of the run at hand") {
  constexpr std::size_t budget = 24;
  Run run(points("tova", {std::to_string(budget)}));
  const std::vector<std::int32_t> ids = tokens();
  const ReferencePass full = reference_pass(run.tiny, run.weights, ids, everything_attends);
  // Behind the prompt and behind every row each layer keeps what that row attended most, as a mean over its heads.
  std::vector<std::set<std::size_t>> resident(static_cast<std::size_t>(run.tiny.layers));
  const ReferencePass cut = reference_pass(
      run.tiny, run.weights, ids,
      [&](int layer, int, std::size_t row, std::size_t entry) {
        return row < prompt_length || entry == row || resident[static_cast<std::size_t>(layer)].contains(entry);
      },
      [&](int layer, std::size_t row, const std::vector<double>& attention) {
        if (row + 1 < prompt_length) return;
        auto& kept = resident[static_cast<std::size_t>(layer)];
        for (std::size_t entry = 0; row + 1 == prompt_length && entry < row; ++entry) kept.insert(entry);
        kept.insert(row);
        std::vector<std::size_t> best(kept.begin(), kept.end());
        std::sort(best.begin(), best.end(), [&](std::size_t a, std::size_t b) { return attention[a] > attention[b]; });
        kept = {best.begin(), best.begin() + budget};
      });
  CHECK(run.closed->run(0).kl == Approx(mean_kl(full, cut)).epsilon(1e-3).margin(2e-6));
}

TEST_CASE("budgets that were split over all layers by the prompt hold for what is decoded") {
  Run run(points("duoattention(sinks=4,recent=12),squeezeattention(streaming_llm())", {"0.4"}));
  const std::vector<std::int32_t> ids = tokens();
  const ReferencePass full = reference_pass(run.tiny, run.weights, ids, everything_attends);
  // Every head keeps the first four and the newest, as many as after the prompt; some heads keep everything.
  for (std::size_t point = 0; point < 2; ++point) {
    std::set<std::size_t> sizes;
    const auto attends = [&](int layer, int kv_head, std::size_t row, std::size_t entry) {
      if (row < prompt_length) return true;
      const auto cut = std::find_if(run.cuts.begin(), run.cuts.end(), [&](const sim::PromptCut& found) {
        return found.point == point && found.layer == static_cast<std::size_t>(layer);
      });
      const std::size_t kept = cut->kept[static_cast<std::size_t>(kv_head)].size();
      sizes.insert(kept);
      return kept == prompt_length || entry < 4 || entry + kept - 4 >= row;
    };
    const ReferencePass cut = reference_pass(run.tiny, run.weights, ids, attends);
    CHECK(sizes.size() == 2);
    CHECK(run.closed->run(point).kl == Approx(mean_kl(full, cut)).epsilon(1e-3).margin(2e-6));
  }
}

TEST_CASE("what placements attend is run too") {
  Run run(points("snapkv(window=8)@host(page=4),snapkv(window=8),snapkv(window=8)@kivi(bits=8)", {"0.3"}));
  const double lost = run.closed->run(1).kl;
  CHECK(run.closed->run(0).kl < lost);
  CHECK(run.closed->run(2).kl < lost);
}

TEST_CASE("sensitivity is the KL of a model with one layer cut at random per squared error behind W_O") {
  const fs::path file = scratch("sensitivity.gguf");
  const TinyModel tiny;
  const TinyWeights weights = write_tiny_model(file, tiny);
  const SensitivityProbe probe({.model = file, .engine = exact_engine(), .draws = 2, .seed = 5});
  std::vector<ProbePoint> found;
  const Sensitivity sensitivity = probe.measure(
      {text()}, [&](const ProbePoint& point) { found.push_back(point); }, never);
  REQUIRE(found.size() == 6);

  // The same cuts, drawn by the policy itself.
  Run run(points("knorm", {"0.5"}));
  run.options.seed = 5;
  run.plan = points(
      "random(seed=1,protection=sinks(count=4),protection=recent(count=16)),"
      "random(seed=2,protection=sinks(count=4),protection=recent(count=16))",
      {"0.5"});
  run.cuts = replay_trace(run.captured.reader(), run.plan, run.options, never).cuts;
  const std::vector<std::int32_t> ids = tokens();
  const ReferencePass full = reference_pass(tiny, weights, ids, everything_attends);
  for (int layer = 0; layer < tiny.layers; ++layer) {
    double kl = 0, squared_error = 0;
    for (std::size_t draw = 0; draw < 2; ++draw) {
      const ReferencePass cut = reference_pass(tiny, weights, ids, kept_by(run, draw, layer));
      const double own_kl = mean_kl(full, cut);
      double own_error = 0;
      for (std::size_t row = prompt_length; row < prompt_length + rows; ++row) {
        const auto& before = full.projected[static_cast<std::size_t>(layer)][row];
        const auto& after = cut.projected[static_cast<std::size_t>(layer)][row];
        for (std::size_t i = 0; i < before.size(); ++i) own_error += (after[i] - before[i]) * (after[i] - before[i]);
      }
      const ProbePoint& point = found[draw * 3 + static_cast<std::size_t>(layer)];
      CHECK(point.layer == layer);
      CHECK(point.kl == Approx(own_kl).epsilon(1e-3).margin(2e-6));
      CHECK(point.squared_error == Approx(own_error / rows).epsilon(1e-4));
      kl += own_kl;
      squared_error += own_error / rows;
    }
    CHECK(sensitivity.weights[static_cast<std::size_t>(layer)] == Approx(kl / squared_error).epsilon(2e-3));
  }
  CHECK(sensitivity.attributes.at("draws") == "2");
  CHECK(sensitivity.attributes.at("rows") == "12");
}

TEST_CASE("sensitivity is stored beside everything else that a trace holds") {
  const fs::path file = scratch("store.gguf"), trace = scratch("store.h5"), copy = scratch("stored.h5");
  write_tiny_model(file, {});
  CapturePlan plan = exact_plan(file);
  plan.record.layers = {0, 2};
  plan.record.hidden = true;
  LlamaCapture(plan).run(trace);
  const SensitivityProbe probe({.model = file, .engine = exact_engine()});
  const Sensitivity sensitivity{.weights = {0.5, 1, 2}, .attributes = {{"draws", "3"}}};
  probe.store(sensitivity, trace, copy);
  {
    const Reader before(trace), after(copy);
    CHECK(before.header().sensitivity.empty());
    CHECK(after.header().sensitivity == std::vector<double>{0.5, 2});
    CHECK(after.header().sensitivity_attributes == sensitivity.attributes);
    require_same(before, after, 0);
    CHECK(before.read_hidden(0, 2)->data == after.read_hidden(0, 2)->data);
    CHECK(before.read_weight(2, LayerWeight::w_o)->data == after.read_weight(2, LayerWeight::w_o)->data);
  }
  probe.store({.weights = {1, 1, 3}, .attributes = {}}, copy, copy);
  CHECK(Reader(copy).header().sensitivity == std::vector<double>{1, 3});
  CHECK(Reader(copy).header().sensitivity_attributes.empty());

  TinyModel other;
  other.layers = 2;
  const fs::path other_file = scratch("other.gguf");
  write_tiny_model(other_file, other);
  const SensitivityProbe stranger({.model = other_file, .engine = exact_engine()});
  CHECK_THROWS_WITH(stranger.store({.weights = {1, 1}, .attributes = {}}, copy, copy),
                    Catch::Contains("another model") && Catch::Contains("num_layers"));
  CHECK_THROWS_WITH(store_sensitivity(copy, copy, {1, -1}, {}), Catch::Contains("from 0 on"));
  CHECK_THROWS_WITH(store_sensitivity(scratch(""), copy, {1, 1}, {}), Catch::Contains("directory"));
}

namespace {

/// Collects rows; stops the verification after so many.
class Collector final : public VerifyObserver {
 public:
  explicit Collector(std::size_t most) : most_(most) {}
  bool is_known(const std::string& name, const std::string& policy, const std::string& budget) override {
    asked.insert(policy);
    return known.contains(name + budget);
  }
  void began(const std::string& name, const NextTokenChange& uncut) override {
    began_texts.push_back(name);
    CHECK(uncut.kl < 1e-6);
  }
  void measured(const analysis::TruthRow& row) override {
    measured_rows.push_back(row);
    if (measured_rows.size() == most_) stop = true;
  }
  void skipped(const std::string& /*name*/, const std::string& policy, const std::string& why) override {
    reasons.push_back(policy + ": " + why);
  }
  std::set<std::string> known, asked;
  std::vector<std::string> began_texts, reasons;
  std::vector<analysis::TruthRow> measured_rows;
  std::atomic<bool> stop = false;

 private:
  std::size_t most_;
};

VerifyPlan verify_plan(const std::string& policies, const std::vector<std::string>& budgets) {
  const fs::path file = scratch("verify.gguf");
  write_tiny_model(file, {});
  VerifyPlan plan;
  plan.model = file;
  plan.engine = exact_engine();
  plan.points = points(policies, budgets);
  return plan;
}

}  // namespace

TEST_CASE("rows hold the truth beside the replay of the same run, and an interrupt keeps those that are finished") {
  const Verification verification(verify_plan("knorm,kvzip", {"0.25", "1"}));
  Collector all(99);
  verification.run(text("a"), all, all.stop);
  REQUIRE(all.measured_rows.size() == 2);
  CHECK(all.reasons.size() == 1);  // kvzip needs a second pass
  const analysis::TruthRow& row = all.measured_rows.front();
  CHECK(row.text == "a");
  CHECK(row.model == verification.model().header().model);
  CHECK(row.rows == static_cast<std::int64_t>(rows));
  CHECK(row.run.policy == "knorm");
  CHECK(row.run.budget == "0.25");
  CHECK(row.run.sequence == "a");
  CHECK(row.kl > 1e-4);
  CHECK(row.run[analysis::Metric::output_error] > 0);
  REQUIRE(row.run.layer_squared_errors.size() == 3);
  CHECK(row.run.layer_squared_errors[1] > 0);
  CHECK(all.measured_rows.back().kl < 1e-6);

  Collector stopped(1);
  CHECK_THROWS_AS(verification.run(text("a"), stopped, stopped.stop), Error);
  REQUIRE(stopped.measured_rows.size() == 1);
  CHECK(stopped.measured_rows.front().kl == row.kl);

  Collector rest(99);
  rest.known = {"a0.25"};
  verification.run(text("a"), rest, rest.stop);
  REQUIRE(rest.measured_rows.size() == 1);
  CHECK(rest.measured_rows.front().run.budget == "1");
  rest.known = {"a0.25", "a1"};
  verification.run(text("a"), rest, rest.stop);
  CHECK(rest.began_texts.size() == 1);
}

TEST_CASE("what cannot run in a model is refused by name") {
  CHECK_THROWS_WITH(Verification(verify_plan("kvpacket", {"0.5"})),
                    Catch::Contains("kvpacket") && Catch::Contains("packets"));
  // The others go on.
  const Verification others(verify_plan("kvpacket,epikv,knorm,squeezeattention", {"0.5"}));
  REQUIRE(others.refused().size() == 2);
  CHECK(others.refused()[1].first == "epikv");
  CHECK_THAT(others.refused()[1].second, Catch::Contains("step_norm of rows decoded"));
  Collector left(99);
  others.run(text("a"), left, left.stop);
  REQUIRE(left.measured_rows.size() == 2);
  CHECK(left.measured_rows.front().run.policy == "knorm");
  CHECK(left.measured_rows.back().run.policy == "squeezeattention");
  for (const analysis::TruthRow& row : left.measured_rows) CHECK(row.run.ok());
  CHECK(left.asked == std::set<std::string>{"knorm", "squeezeattention"});
  const Verification verification(verify_plan("knorm", {"0.5"}));
  Collector none(99);
  SequencePlan nothing = text();
  nothing.continuation_tokens.clear();
  nothing.decode = 0;
  CHECK_THROWS_WITH(verification.run(nothing, none, none.stop), Catch::Contains("nothing follows the prompt"));
}

TEST_CASE("a closed loop needs every layer and the queries behind the prompt") {
  const fs::path file = scratch("parts.gguf"), trace = scratch("parts.h5");
  write_tiny_model(file, {});
  CapturePlan plan = exact_plan(file);
  const auto [layers, queries, why] = GENERATE(table<std::vector<int>, std::string, std::string>(
      {{{0, 2}, "all", "every layer"}, {{}, "window:4", "every decode row"}}));
  plan.record.layers = layers;
  plan.record.queries = parse_query_sample("q_rows", queries);
  LlamaCapture(plan).run(trace);
  const Reader reader(trace);
  const sim::ReplayPlan knorm = points("knorm", {"0.5"});
  const sim::ReplayOptions options;
  CHECK_THROWS_WITH(sim::ClosedLoop(reader, 0, knorm, options, {}, {0}, never), Catch::Contains(why));
}

}  // namespace evictsim::tests
