// Are attention sums over all, some or the last queries what plain loops give, at the prompt and while decoding?
#include <catch2/catch.hpp>
#include <cmath>

#include "policies/attention_record.h"
#include "policies/policy.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::StepDouble;

namespace {

using Row = std::vector<double>;

/// One query head that reads one KV head.
CacheDouble single(int prompt = 12) {
  return CacheDouble({.query_heads = 1, .kv_heads = 1, .head_dim = 4, .prompt = prompt, .length = 32});
}

/// What `signal` gives summed over prompt rows [first, prompt) and the decode rows seen, the cache being whole.
template <typename Signal>
Row summed(const CacheDouble& cache, Index first, Signal signal) {
  Row sums(static_cast<std::size_t>(cache.seen()), 0.0);
  for (Index row = std::max<Index>(0, first); row < cache.seen(); ++row) {
    const auto visible = cache.positions().first(static_cast<std::size_t>(row + 1));
    const Row attention = cache.attention_of(0, row, visible);
    for (std::size_t i = 0; i < attention.size(); ++i) sums[i] += signal(attention[i], attention.size());
  }
  return sums;
}

Row scores_after(const std::string& policy, CacheDouble& cache, int decoded) {
  const auto scorer = parse_policy(policy).make_scorer();
  scorer->begin_decode(cache);
  for (int step = 0; step < decoded; ++step) {
    cache.see(cache.seen() + 1);
    scorer->observe(StepDouble(cache));
  }
  LayerScores scores(cache);
  scorer->score(cache, {.cached = cache.seen(), .entries = 6, .exact_entries = 6}, scores);
  return {scores.of(0).begin(), scores.of(0).end()};
}

void check(const Row& got, const Row& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("entry " << i);
    CHECK(got[i] == Approx(expected[i]).epsilon(1e-5).margin(1e-6));
  }
}

double itself(double p, std::size_t) { return p; }

}  // namespace

TEST_CASE("the queries that count") {
  const int decoded = GENERATE(0, 5);
  CacheDouble cache = single();
  const Index now = 12 + decoded;
  SECTION("all") {
    const Row got = scores_after("accumulated_attention(recent=0)", cache, decoded);
    check(got, summed(cache, 0, itself));
  }
  SECTION("the last") {
    const Row got = scores_after("accumulated_attention(recent=0,accumulate=last)", cache, decoded);
    check(got, summed(cache, now - 1, itself));
  }
  SECTION("the last few, reaching back into the prompt") {
    const Row got = scores_after("accumulated_attention(recent=0,accumulate=window,history=7)", cache, decoded);
    check(got, summed(cache, now - 7, itself));
  }
  SECTION("more than there are") {
    const Row got = scores_after("accumulated_attention(recent=0,accumulate=window,history=100)", cache, decoded);
    check(got, summed(cache, 0, itself));
  }
  SECTION("the prompt's last few and all later ones") {
    const Row got = scores_after("accumulated_attention(recent=0,accumulate=since_window,history=3)", cache, decoded);
    check(got, summed(cache, 12 - 3, itself));
  }
}

TEST_CASE("what a query adds") {
  const int decoded = GENERATE(0, 3);
  const std::string span = GENERATE("all", "window");
  CacheDouble cache = single();
  const std::string start = "accumulated_attention(recent=0,history=4,accumulate=" + span + ",signal=";
  const Index first = span == "all" ? 0 : 12 + decoded - 4;
  SECTION("squared") {
    const Row got = scores_after(start + "squared)", cache, decoded);
    check(got, summed(cache, first, [](double p, std::size_t) { return p * p; }));
  }
  SECTION("above_uniform") {
    const Row got = scores_after(start + "above_uniform)", cache, decoded);
    check(got,
          summed(cache, first, [](double p, std::size_t m) { return p >= 1.0 / static_cast<double>(m) ? 1.0 : 0.0; }));
  }
  SECTION("below_uniform") {
    // Nothing was evicted, so as many tokens were seen as there are entries.
    const Row got = scores_after(start + "below_uniform)", cache, decoded);
    check(got,
          summed(cache, first, [](double p, std::size_t m) { return p < 1.0 / static_cast<double>(m) ? -1.0 : 0.0; }));
  }
}

TEST_CASE("what sums are divided by") {
  CacheDouble cache = single();
  const Row sums = summed(cache, 0, itself);
  const auto divided = [&](auto divisor) {
    Row row = sums;
    for (std::size_t i = 0; i < row.size(); ++i) row[i] /= divisor(static_cast<int>(i));
    return row;
  };
  check(scores_after("accumulated_attention(recent=0,normalise=lifetime)", cache, 0),
        divided([](int row) { return 12 - row; }));
  check(scores_after("accumulated_attention(recent=0,normalise=queries)", cache, 0),
        divided([](int row) { return 12 - row; }));
  Row last_three = summed(cache, 9, itself);
  for (std::size_t i = 0; i < 12; ++i) last_three[i] /= i < 9 ? 3 : 12.0 - static_cast<double>(i);
  check(scores_after("accumulated_attention(recent=0,normalise=queries,accumulate=window,history=3)", cache, 0),
        last_three);
}

TEST_CASE("evicted entries keep out of the attention of later rows, and sums are not rescaled") {
  CacheDouble cache = single();
  const auto scorer = parse_policy("h2o(recent=0)").make_scorer();
  scorer->begin_decode(cache);
  Row expected = summed(cache, 0, itself);
  cache.resident[0] = {0, 3, 7, 11};
  cache.see(13);
  const StepDouble step(cache);
  scorer->observe(step);
  LayerScores scores(cache);
  scorer->score(cache, {.cached = 5, .entries = 4, .exact_entries = 4}, scores);
  const Row attention = cache.attention_of(0, 12, cache.entries(0));
  expected.push_back(0);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto row = static_cast<std::size_t>(cache.entries(0)[i]);
    CHECK(scores.of(0)[i] == Approx(expected[row] + attention[i]).epsilon(1e-5));
  }
}

TEST_CASE("FlexGen's cut keeps hh heavy and hh - 1 recent entries, then weighs all but the newest hh") {
  CacheDouble cache = single();
  const auto scorer = parse_policy("h2o(variant=flexgen)").make_scorer();
  CHECK(scorer->depends_on_budget());
  scorer->begin_decode(cache);
  const CutBudget seven{.cached = 12, .entries = 7, .exact_entries = 7};  // hh = 4
  LayerScores after_prompt(cache);
  scorer->score(cache, seven, after_prompt);
  CHECK(after_prompt.protected_count(0) == 3);
  CHECK(after_prompt.is_protected(0, 9));
  CHECK_FALSE(after_prompt.is_protected(0, 8));
  cache.resident[0] = {0, 1, 2, 3, 9, 10, 11};
  cache.see(13);
  scorer->observe(StepDouble(cache));
  LayerScores later(cache);
  scorer->score(cache, seven, later);
  CHECK(later.protected_count(0) == 4);
  CHECK(later.is_protected(0, 4));  // row 9
}

TEST_CASE("the attention that scores are made of is given per query head") {
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt = 10, .length = 12});
  const CutBudget five{.cached = 10, .entries = 5, .exact_entries = 5};
  const auto given = [&](const std::string& policy) {
    const auto scorer = parse_policy(policy).make_scorer();
    LayerScores scores(cache);
    scorer->score(cache, five, scores);
    return scorer->attention_of_score(cache);
  };
  const auto all = cache.positions();
  const auto sums = given("h2o(recent=2)");
  const auto last = given("tova()");
  const auto window = given("snapkv(window=3,kernel=1)");
  REQUIRE(sums.size() == 4);
  REQUIRE(last.size() == 4);
  REQUIRE(window.size() == 4);
  for (int head = 0; head < 4; ++head) {
    const auto place = static_cast<std::size_t>(head);
    check(sums[place], Row(cache.accumulated_attention(head).begin(), cache.accumulated_attention(head).end()));
    check(last[place], cache.attention_of(head, 9, all));
    Row before(10, 0.0);
    for (Index row = 7; row < 10; ++row) {
      const Row attention = cache.attention_of(head, row, all);
      for (std::size_t i = 0; i < 7; ++i) before[i] += attention[i];
    }
    check(window[place], before);
  }
  CHECK(given("accumulated_attention(signal=squared)").empty());
}

TEST_CASE("a threshold at a percentile of a row") {
  CacheDouble cache = single(5);
  AttentionRecord record(
      {.signal = AttentionSignal::above_percentile, .span = AttentionSpan::window, .history = 1, .percentile = 0.5});
  record.begin(cache);
  Row attention = cache.attention_of(0, 4, cache.positions());
  const Row signals = record.sums(0, cache.entries(0));
  Row sorted = attention;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < 5; ++i) CHECK(signals[i] == (attention[i] > sorted[2] + 1e-7 ? 1.0 : 0.0));
}

TEST_CASE("Scissorhands' code drops what no recent query put into its top tenth") {
  CacheDouble cache = single(20);
  const Policy policy = parse_policy("scissorhands(variant=code,history=2,recent=3)");
  CHECK(policy.allocator->ignores_budget());
  LayerScores scores(cache);
  // The double is layer 1, which the code leaves whole; layers from 0 on take part here.
  policy.make_scorer()->score(cache, {.cached = 20, .entries = 5, .exact_entries = 5}, scores);
  CHECK(scores.dropped_count(0) == 0);
  const auto scorer = parse_policy("persistence(history=2,recent=3,first_layer=0,percentile=0.9)").make_scorer();
  scorer->score(cache, {.cached = 20, .entries = 5, .exact_entries = 5}, scores);
  // Rows 18 and 19 see 19 and 20 entries; above their 18th (int(0.9 * 19) = 17, int(0.9 * 20) = 18 from 0) are one
  // each.
  std::vector<std::uint8_t> expected(20, 0);
  for (const Index row : {18, 19}) {
    const auto visible = cache.positions().first(static_cast<std::size_t>(row + 1));
    const Row attention = cache.attention_of(0, row, visible);
    const auto best = std::max_element(attention.begin(), attention.end()) - attention.begin();
    expected[static_cast<std::size_t>(best)] = 1;
  }
  for (Index place = 0; place < 20; ++place) {
    INFO("entry " << place);
    CHECK(scores.is_dropped(0, place) == (place < 17 && expected[static_cast<std::size_t>(place)] == 0));
  }
}
