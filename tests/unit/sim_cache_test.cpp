// Does the cache show a policy what is resident, nothing later than now, and keep its books right while decoding?
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <numeric>
#include <vector>

#include "sim/replay/decode_run.h"
#include "sim/replay/future.h"
#include "sim/replay/layer_cache.h"
#include "tests/support/memory_trace_exact.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::sim;
using namespace evictsim::test;
using policies::Granularity;

TraceShape small() {
  return {.layers = 1, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 20, .length = 32};
}

std::vector<std::int32_t> rows_of(std::span<const std::int32_t> rows) { return {rows.begin(), rows.end()}; }

std::vector<std::int32_t> sequence(std::int32_t first, std::int32_t last) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(last - first));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

/// Softmax of `row` over `entries` in double, 0 for later entries.
std::vector<double> exact_attention(const ExactLayer& exact, int query_head, std::int32_t row,
                                    std::span<const std::int32_t> entries) {
  std::vector<bool> resident(static_cast<std::size_t>(exact.length()), false);
  for (const std::int32_t entry : entries) resident[static_cast<std::size_t>(entry)] = true;
  const std::vector<double> weights = exact.weights(query_head, row, resident);
  std::vector<double> attention;
  for (const std::int32_t entry : entries) attention.push_back(weights[static_cast<std::size_t>(entry)]);
  return attention;
}

void check_window(const LayerCache& cache, const ExactLayer& exact, Index rows) {
  for (int query_head = 0; query_head < 6; ++query_head) {
    const auto entries = cache.entries(cache.head_of(query_head));
    const MatrixView window = cache.window_attention(query_head, rows);
    REQUIRE(window.rows() == static_cast<Index>(entries.size()));
    REQUIRE(window.cols() == rows);
    for (Index r = 0; r < rows; ++r) {
      const auto row = static_cast<std::int32_t>(cache.seen() - rows + r);
      const std::vector<double> expected = exact_attention(exact, query_head, row, entries);
      for (Index i = 0; i < window.rows(); ++i) {
        CHECK(window(i, r) == Approx(expected[static_cast<std::size_t>(i)]).margin(1e-5));
      }
    }
  }
}

}  // namespace

TEST_CASE("the view of a whole prompt") {
  const MemoryTrace trace = random_trace(small());
  const LoadedLayer layer(trace);
  const PromptFeatures features = make_prompt_features(layer.data(), {.window_queries = 6, .all_queries = true});
  const auto granularity = GENERATE(Granularity::kv_head, Granularity::query_head);
  const LayerCache cache(layer.data(), features, granularity, {});
  const ExactLayer exact(trace);
  const int group = granularity == Granularity::kv_head ? 3 : 1;
  REQUIRE(cache.heads() == 6 / group);
  CHECK(cache.seen() == 20);
  CHECK(cache.positions().size() == 20);
  CHECK(rows_of(cache.query_rows()) == sequence(0, 20));
  CHECK(cache.queries(2).rows() == 20);
  for (int head = 0; head < cache.heads(); ++head) {
    CHECK(rows_of(cache.entries(head)) == sequence(0, 20));
    CHECK(cache.query_heads(head).first == head * group);
    CHECK(cache.query_heads(head).count == group);
    CHECK(cache.keys(head) == layer.data().keys(head * group / 3, 20));
    CHECK(cache.values(head) == layer.data().values(head * group / 3, 20));
    CHECK(cache.keys(head).rows() == 20);  // nothing of the rows to come
  }
  check_window(cache, exact, 1);
  check_window(cache, exact, 6);
  check_window(cache, exact, 20);  // more than was prepared
  CHECK_THROWS_AS(cache.window_attention(0, 0), Error);
  CHECK_THROWS_AS(cache.window_attention(0, 21), Error);
  for (int query_head = 0; query_head < 6; ++query_head) {
    const std::vector<double> expected = exact.mass(query_head, sequence(0, 20));
    const auto found = cache.accumulated_attention(query_head);
    REQUIRE(found.size() == 20);
    for (std::size_t j = 0; j < 20; ++j) CHECK(found[j] == Approx(expected[j]).margin(1e-5));
  }
}

TEST_CASE("prompt features of a sliding-window layer with soft cap") {
  TraceShape shape = small();
  shape.sliding_window = {9};
  shape.softcap = 4;
  const MemoryTrace trace = random_trace(shape);
  const LoadedLayer layer(trace);
  const PromptFeatures features = make_prompt_features(layer.data(), {.window_queries = 50, .all_queries = true});
  CHECK(features.window == 20);
  const LayerCache cache(layer.data(), features, Granularity::kv_head, {});
  const ExactLayer exact(trace);
  check_window(cache, exact, 20);
  const std::vector<double> expected = exact.mass(4, sequence(0, 20));
  for (std::size_t j = 0; j < 20; ++j) CHECK(cache.accumulated_attention(4)[j] == Approx(expected[j]).margin(1e-5));
}

TEST_CASE("accumulated attention must be asked for") {
  const MemoryTrace trace = random_trace(small());
  const LoadedLayer layer(trace);
  const PromptFeatures features = make_prompt_features(layer.data(), {});
  const LayerCache cache(layer.data(), features, Granularity::kv_head, {});
  CHECK_THROWS_AS(cache.accumulated_attention(0), Error);
}

TEST_CASE("keeping and appending") {
  const MemoryTrace trace = random_trace(small());
  const LoadedLayer layer(trace);
  const PromptFeatures features = make_prompt_features(layer.data(), {.window_queries = 4});
  LayerCache cache(layer.data(), features, Granularity::kv_head, {});
  const ExactLayer exact(trace);
  cache.keep(0, std::vector<std::int32_t>{0, 3, 18});
  CHECK(rows_of(cache.entries(0)) == std::vector<std::int32_t>{0, 3, 18});
  CHECK(rows_of(cache.entries(1)) == sequence(0, 20));
  CHECK(cache.longest() == 20);
  CHECK(cache.last_row(0)[1] == 19);
  CHECK(cache.last_row(0)[3] == never_evicted);
  CHECK(cache.last_row(1)[1] == never_evicted);
  // Attention is renormalised over what is resident, also of the rows that saw more.
  check_window(cache, exact, 4);

  cache.append(20);
  cache.append(21);
  CHECK(cache.seen() == 22);
  CHECK(cache.positions().size() == 22);
  CHECK(rows_of(cache.query_rows()).back() == 21);
  CHECK(rows_of(cache.entries(0)) == std::vector<std::int32_t>{0, 3, 18, 20, 21});
  for (const int head : {0, 1}) {
    const MatrixView keys = cache.keys(head);
    const MatrixView values = cache.values(head);
    const auto entries = cache.entries(head);
    REQUIRE(keys.rows() == static_cast<Index>(entries.size()));
    for (std::size_t i = 0; i < entries.size(); ++i) {
      CHECK(keys.row(static_cast<Index>(i)) == layer.data().keys(head, 32).row(entries[i]));
      CHECK(values.row(static_cast<Index>(i)) == layer.data().values(head, 32).row(entries[i]));
    }
  }
  check_window(cache, exact, 3);
  // Places are those of the entries resident now.
  cache.keep(0, std::vector<std::int32_t>{1, 4});
  CHECK(rows_of(cache.entries(0)) == std::vector<std::int32_t>{3, 21});
  CHECK(cache.last_row(0)[0] == 21);
  CHECK(cache.last_row(0)[20] == 21);
  check_window(cache, exact, 2);
  cache.keep(1, std::vector<std::int32_t>{});
  CHECK(cache.entries(1).empty());
}

TEST_CASE("random numbers depend on seed, sequence, layer and head only") {
  TraceShape shape = small();
  shape.layers = 2;
  const MemoryTrace trace = random_trace(shape);
  const LoadedLayer first(trace, 0);
  const LoadedLayer second(trace, 1);
  const PromptFeatures features;
  const auto draw = [&](const LoadedLayer& layer, RandomKey key, int head) {
    const LayerCache cache(layer.data(), features, Granularity::kv_head, key);
    CHECK(cache.generator(head)() == cache.generator(head)());
    return cache.generator(head)();
  };
  const auto base = draw(first, {1, 2}, 0);
  CHECK(base == draw(first, {1, 2}, 0));
  CHECK(base != draw(first, {3, 2}, 0));
  CHECK(base != draw(first, {std::uint64_t{1} << 40U, 2}, 0));
  CHECK(base != draw(first, {1, 3}, 0));
  CHECK(base != draw(second, {1, 2}, 0));
  CHECK(base != draw(first, {1, 2}, 1));
}

TEST_CASE("what a layer lacks for a policy") {
  const auto lacks = [](const policies::Needs& needs, const std::vector<std::int32_t>& rows) {
    return missing_need(needs, rows, 5, 8);
  };
  const std::vector<std::int32_t> window = {3, 4, 5, 6, 7};
  CHECK(lacks({}, {}).empty());
  CHECK(lacks({.window_queries = 2}, window).empty());
  CHECK(lacks({.window_queries = 2, .decode_attention = true}, window).empty());
  CHECK(lacks({.window_queries = 3}, window) == "q of the last 3 prompt rows");
  CHECK(lacks({.window_queries = 99}, window) == "q of the last 5 prompt rows");
  CHECK(lacks({.window_queries = 99}, sequence(0, 5)).empty());
  CHECK(lacks({.all_queries = true}, window) == "q of every prompt row");
  CHECK(lacks({.all_queries = true}, sequence(0, 5)).empty());
  CHECK(lacks({.decode_attention = true}, {3, 4, 5, 7}) == "q of every decode row");
}

namespace {

/// What the scorer under test was shown.
struct Log {
  std::vector<Index> scored_at;                                 ///< seen() at every cut
  std::vector<std::vector<std::vector<float>>> attention;       ///< [step][query head]
  std::vector<std::vector<std::vector<std::int32_t>>> entries;  ///< [step][head]
  Index begun_at = -1;
};

/// Keeps even rows before odd ones, newest first, and notes what it sees.
class EvenRows final : public policies::Scorer {
 public:
  explicit EvenRows(Log& log) : log_(log) {}
  void begin_decode(const policies::CacheView& prompt) override { log_.begun_at = prompt.seen(); }
  void observe(const policies::StepView& step) override {
    CHECK(step.row() == step.seen() - 1);
    log_.attention.emplace_back();
    log_.entries.emplace_back();
    for (int h = 0; h < step.geometry().num_query_heads; ++h) {
      const auto attention = step.attention(h);
      log_.attention.back().emplace_back(attention.begin(), attention.end());
    }
    for (int head = 0; head < step.heads(); ++head) log_.entries.back().push_back(rows_of(step.entries(head)));
  }
  void score(const policies::CacheView& cache, const policies::CutBudget&, policies::LayerScores& scores) override {
    log_.scored_at.push_back(cache.seen());
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        scores.of(head)[i] = static_cast<float>(entries[i]) + (entries[i] % 2 == 0 ? 1000.0F : 0.0F);
      }
    }
  }
  [[nodiscard]] policies::Needs needs() const override { return {.decode_attention = true}; }

 private:
  Log& log_;
};

/// Head 0 keeps one entry fewer than the budget, the others the budget.
class Uneven final : public policies::Allocator {
 public:
  void allocate(const policies::AllocationRequest& request, std::span<Index> counts) const override {
    std::fill(counts.begin(), counts.end(), request.budget.entries);
    --counts[0];
  }
};

/// After the prompt and after every third decode row.
class EveryThird final : public policies::Schedule {
 public:
  [[nodiscard]] bool due(const policies::ScheduleState& state) const override { return state.decoded % 3 == 0; }
  [[nodiscard]] bool cuts_while_decoding() const override { return true; }
};

}  // namespace

TEST_CASE("a policy that cuts while decoding") {
  TraceShape shape = small();
  const std::size_t block = GENERATE(std::size_t{2}, std::size_t{5}, std::size_t{100});
  const bool by_query = GENERATE(true, false);  // attention from the tile, or computed anew
  const MemoryTrace trace = random_trace(shape);
  const LoadedLayer layer(trace);
  const ExactLayer exact(trace);
  Log log;
  policies::Policy policy;
  policy.name = "even";
  policy.make_scorer = [&] { return std::make_unique<EvenRows>(log); };
  policy.allocator = std::make_shared<Uneven>();
  policy.schedule = std::make_shared<EveryThird>();
  policy.needs = {.decode_attention = true};
  const PromptFeatures features;
  const FutureMass no_mass;
  const Future future(layer.data(), no_mass);
  DecodeRun run(policy, policies::Budget::parse("6"), layer.data(), features, {}, future);
  run.begin();
  CHECK(log.begun_at == 20);
  CHECK(run.prompt_kept() == std::vector<std::vector<std::int32_t>>{{10, 12, 14, 16, 18}, {8, 10, 12, 14, 16, 18}});
  CHECK(run.prompt_scores().size() == 2);
  CHECK(run.prompt_scores()[0].size() == 20);

  // The same by hand: entries per head, as they change.
  std::vector<std::vector<std::int32_t>> entries = run.prompt_kept();
  const auto rows = layer.data().decode_rows();
  std::size_t step = 0;
  for (std::size_t first = 0; first < rows.size(); first += block) {
    const auto part = rows.subspan(first, std::min(block, rows.size() - first));
    const Tile tile = make_tile(layer.data(), part, by_query, nullptr);
    run.advance(tile, {.resident = true});
    REQUIRE(run.resident().size() == 2 * part.size());
    REQUIRE(run.resident_rows().size() == 2);
    for (std::size_t r = 0; r < part.size(); ++r, ++step) {
      for (std::size_t head = 0; head < 2; ++head) {
        auto& now = entries[head];
        now.push_back(part[r]);
        REQUIRE(log.entries[step][head] == now);
        CHECK(run.resident()[2 * r + head] == static_cast<std::int32_t>(now.size()));
        for (int g = 0; g < 3; ++g) {
          const int query_head = static_cast<int>(head) * 3 + g;
          const std::vector<double> expected = exact_attention(exact, query_head, part[r], now);
          const auto& shown = log.attention[step][static_cast<std::size_t>(query_head)];
          REQUIRE(shown.size() == expected.size());
          for (std::size_t i = 0; i < shown.size(); ++i) CHECK(shown[i] == Approx(expected[i]).margin(1e-5));
        }
        const std::size_t before = now.size();
        if ((step + 1) % 3 == 0) {
          const std::size_t budget = head == 0 ? 5 : 6;
          std::stable_sort(now.begin(), now.end(), [](std::int32_t a, std::int32_t b) {
            return (a % 2 == 0) != (b % 2 == 0) ? a % 2 == 0 : a > b;
          });
          now.resize(budget);
          std::sort(now.begin(), now.end());
        }
        CHECK(run.evicted()[2 * r + head] == static_cast<std::int32_t>(before - now.size()));
        const std::uint8_t* marks = run.resident_rows()[head].data() + r * 32;
        std::vector<std::int32_t> marked;
        for (std::int32_t j = 0; j < 32; ++j) {
          if (marks[j] == 1) marked.push_back(j);
        }
        CHECK(marked == now);
      }
    }
  }
  CHECK(log.scored_at == std::vector<Index>{20, 23, 26, 29, 32});
  CHECK(rows_of(run.cache().entries(0)) == entries[0]);
  for (std::int32_t row = 0; row < 32; ++row) {
    const bool stays = std::find(entries[1].begin(), entries[1].end(), row) != entries[1].end();
    CHECK((run.cache().last_row(1)[static_cast<std::size_t>(row)] == never_evicted) == stays);
  }
}

TEST_CASE("rows without a query arrive and are cut all the same") {
  TraceShape shape = small();
  shape.q_rows = {18, 19, 22, 23, 29, 31};
  const MemoryTrace trace = random_trace(shape);
  const LoadedLayer layer(trace);
  Log log;
  policies::Policy policy;
  policy.make_scorer = [&] { return std::make_unique<EvenRows>(log); };
  policy.allocator = std::make_shared<Uneven>();
  policy.schedule = std::make_shared<EveryThird>();
  const PromptFeatures features;
  const FutureMass no_mass;
  const Future future(layer.data(), no_mass);
  DecodeRun run(policy, policies::Budget::parse("6"), layer.data(), features, {}, future);
  run.begin();
  const auto rows = layer.data().decode_rows();
  REQUIRE(rows.size() == 4);
  run.advance(make_tile(layer.data(), rows, false, nullptr), {});
  CHECK(log.scored_at == std::vector<Index>{20, 23, 26, 29, 32});
  CHECK(log.attention.empty());
  // Attended: 5 kept + decoded since the cut. Row 22: + 20, 21, 22; then cut to 5; 23: + 1; 29: cut after 28, + 1; 31:
  // + 3.
  CHECK(run.resident() == std::vector<std::int32_t>{8, 9, 6, 7, 6, 7, 8, 9});
  CHECK(run.evicted() == std::vector<std::int32_t>{3, 3, 0, 0, 0, 0, 3, 3});
  CHECK(run.resident_rows().empty());
}
