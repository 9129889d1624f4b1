// Do formulas score as the policies that they spell out, and does a wrong one show where it is wrong?
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/call.h"
#include "policies/formula/parser.h"
#include "policies/policy.h"
#include "policies/registry.h"
#include "tests/support/cache_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using Catch::Matchers::Contains;
using tests::CacheDouble;
using tests::CacheShape;
using tests::StepDouble;

namespace {

LayerScores scores_of(Scorer& scorer, const CacheView& cache) {
  LayerScores scores(cache);
  scorer.score(cache, {.cached = cache.prompt_length(), .entries = 8}, scores);
  return scores;
}

LayerScores scores_of(const std::string& policy, const CacheView& cache) {
  return scores_of(*parse_policy(policy).make_scorer(), cache);
}

void check_equal(const LayerScores& formula, const LayerScores& policy) {
  REQUIRE(formula.heads() == policy.heads());
  for (int head = 0; head < policy.heads(); ++head) {
    REQUIRE(formula.of(head).size() == policy.of(head).size());
    for (std::size_t i = 0; i < policy.of(head).size(); ++i) {
      INFO("head " << head << ", entry " << i);
      CHECK(formula.of(head)[i] == policy.of(head)[i]);
      CHECK(formula.is_raised(head, static_cast<Index>(i)) == policy.is_raised(head, static_cast<Index>(i)));
    }
  }
}

/// Shapes that break careless code: groups of 1, 2, 3, 4 and 8, one KV head, and one cache per query head.
std::vector<CacheShape> shapes() {
  std::vector<CacheShape> all;
  for (const int group : {1, 2, 3, 4, 8}) {
    all.push_back({.query_heads = 2 * group, .kv_heads = 2});
    all.push_back({.query_heads = group, .kv_heads = 1});
  }
  return all;
}

/// The score of every entry of head 0.
std::vector<double> values(const std::string& expression, const CacheView& cache) {
  const LayerScores scores = scores_of("score: " + expression, cache);
  return {scores.of(0).begin(), scores.of(0).end()};
}

struct Refusal {
  std::string excerpt, message;
  ErrorCode code = ErrorCode::unsupported;
};

Refusal refusal_of(const std::string& expression) {
  try {
    static_cast<void>(parse_policy("score: " + expression));
  } catch (const formula::FormulaError& error) {
    return {error.excerpt(), error.what(), error.code()};
  }
  FAIL("no error for " << expression);
  return {};
}

}  // namespace

TEST_CASE("policies that are formulas get the same scores, to the bit") {
  const std::vector<std::pair<const char*, const char*>> pairs = {
      {"score: -norm(k)", "knorm"},
      {"score: difference(k)", "keydiff"},
      {"score: raise_recent(mean(last(attention), over=layer), window=1)", "tova(variant=library)"},
      {"score: mean(last(attention), over=layer)", "tova(variant=original)"},
      {"score: sum(attention) / observers", "observed_attention"},
      {"score: mean(attention)", "observed_attention"},
      {"score: sum(attention)", "accumulated_attention(recent=0)"},
      {"score: max(sum(attention))", "accumulated_attention(recent=0,group=max)"},
      {"score: raise_recent(pool_avg(older(mean(attention, window=6), window=6), kernel=5), window=6)",
       "snapkv(window=6,kernel=5)"},
      {"score: raise_recent(max(pool_max(older(mean(attention,window=6),window=6),kernel=7)),window=6)",
       "snapkv(window=6,kernel=7,pool=max,group=max)"},
      {"score: raise_recent(pool_avg(older(mean(attention, window=64), window=64), kernel=5), window=64)", "snapkv"}};
  for (const CacheShape& shape : shapes()) {
    const CacheDouble cache(shape);
    for (const auto& [formula, policy] : pairs) {
      INFO(formula << ", " << shape.query_heads << " query heads, " << shape.kv_heads << " KV heads");
      check_equal(scores_of(formula, cache), scores_of(policy, cache));
    }
  }
}

TEST_CASE("the window protected in place of raised is the original SnapKV") {
  const CacheDouble cache({.query_heads = 6, .kv_heads = 2});
  const LayerScores formula =
      scores_of("score: pool_avg(mean(older(sum(attention, window=6), window=6)), kernel=5)", cache);
  const LayerScores policy = scores_of("snapkv(variant=original,window=6,kernel=5)", cache);
  for (int head = 0; head < 2; ++head) {
    for (Index i = 0; i < 18; ++i) {
      CHECK(formula.of(head)[static_cast<std::size_t>(i)] == policy.of(head)[static_cast<std::size_t>(i)]);
    }
  }
}

TEST_CASE("short sequences score as the policies do") {
  for (const int prompt : {1, 2, 6, 7}) {
    const CacheDouble cache({.prompt = prompt, .length = prompt + 1});
    INFO(prompt);
    // A single entry has nothing to compete with: whatever it scores, it stays.
    if (prompt > 1) {
      check_equal(
          scores_of("score: raise_recent(pool_avg(older(mean(attention,window=6),window=6),kernel=5),window=6)", cache),
          scores_of("snapkv(window=6,kernel=5)", cache));
    }
    check_equal(scores_of("score: difference(k)", cache), scores_of("keydiff", cache));
    check_equal(scores_of("score: mean(attention)", cache), scores_of("observed_attention", cache));
    for (const char* formula : {"zscore(norm(v))", "softmax(norm(k))", "rank(age)", "share(norm(v))"}) {
      for (const double value : values(formula, cache)) CHECK(std::isfinite(value));
    }
  }
}

TEST_CASE("attention goes on accumulating while decoding, over what is resident") {
  CacheDouble cache({.query_heads = 4, .kv_heads = 2});
  const auto formula = parse_policy("formula(expression='sum(attention)',schedule=every)").make_scorer();
  const auto policy = parse_policy("accumulated_attention(recent=0)").make_scorer();
  const auto window = parse_policy("formula(expression='mean(attention,window=4)',schedule=every)").make_scorer();
  const auto last = parse_policy("score: mean(last(attention), over=layer)").make_scorer();
  const auto tova = parse_policy("tova").make_scorer();
  for (Scorer* scorer : {formula.get(), policy.get(), window.get()}) scorer->begin_decode(cache);
  for (int step = 0; step < 5; ++step) {
    cache.see(cache.seen() + 1);
    const StepDouble view(cache);
    for (Scorer* scorer : {formula.get(), policy.get(), window.get()}) scorer->observe(view);
    check_equal(scores_of(*formula, cache), scores_of(*policy, cache));
    check_equal(scores_of(*last, cache), scores_of(*tova, cache));
    const LayerScores windowed = scores_of(*window, cache);
    for (const float score : windowed.of(0)) CHECK(std::isfinite(score));
    cache.resident[0].erase(cache.resident[0].begin() + step);  // heads come to hold different entries
    cache.resident[1].erase(cache.resident[1].begin() + 2);
  }
}

TEST_CASE("features are what the page says") {
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .prompt = 12, .length = 12});
  cache.resident[0] = {0, 3, 4, 9, 11};
  const models::Matrix& values_of_head = cache.all_values[0];
  const std::vector<std::int32_t> entries = cache.resident[0];
  const auto check = [&](const std::string& expression, auto expected) {
    INFO(expression);
    const std::vector<double> found = values(expression, cache);
    REQUIRE(found.size() == entries.size());
    for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i] == Approx(expected(entries[i])).epsilon(1e-6));
  };
  check("age", [](int row) { return 11 - row; });
  check("observers", [](int row) { return 12 - row; });
  check("position / seen", [](int row) { return row / 12.0; });
  check("norm(v)", [&](int row) { return values_of_head.row(row).norm(); });
  check("norm(v, order=1)", [&](int row) { return values_of_head.row(row).lpNorm<1>(); });
  check("entropy", [&](int row) {
    return cache.channels.at({traces::Channel::entropy, 0})[static_cast<std::size_t>(row)];
  });
  check("hidden_jump", [&](int row) {
    return cache.channels.at({traces::Channel::step_norm, 1})[static_cast<std::size_t>(row)];
  });
  for (const char* order : {"1", "2"}) {
    for (const char* reduced : {"mean", "max", "sum"}) {
      check(std::string(reduced) + "(norm(projected, order=" + order + "))", [&](int row) {
        std::vector<double> norms;
        for (int query_head = 0; query_head < 2; ++query_head) {
          const Eigen::VectorXf image = cache.w_o.middleCols(8 * query_head, 8) * values_of_head.row(row).transpose();
          norms.push_back(order == std::string("1") ? image.lpNorm<1>() : image.norm());
        }
        const double sum = norms[0] + norms[1];
        return reduced == std::string("max")   ? std::max(norms[0], norms[1])
               : reduced == std::string("sum") ? sum
                                               : sum / 2;
      });
    }
  }
  const auto received = [&](int query_head, int row, int window, bool largest) {
    double sum = 0, most = 0;
    for (int query = 12 - window; query < 12; ++query) {
      const std::vector<double> weights = cache.attention_of(query_head, query, entries);
      const double weight =
          weights[static_cast<std::size_t>(std::find(entries.begin(), entries.end(), row) - entries.begin())];
      sum += weight;
      most = std::max(most, weight);
    }
    return largest ? most : sum;
  };
  check("sum(attention, window=4)",
        [&](int row) { return (received(0, row, 4, false) + received(1, row, 4, false)) / 2; });
  check("mean(attention, window=4)",
        [&](int row) { return (received(0, row, 4, false) + received(1, row, 4, false)) / 2 / std::min(4, 12 - row); });
  check("max(attention, window=4)",
        [&](int row) { return (received(0, row, 4, true) + received(1, row, 4, true)) / 2; });
  check("max(max(attention, window=4), over=layer) * 0 + 1", [](int) { return 1; });
}

TEST_CASE("operations are plain arithmetic, entry by entry") {
  const CacheDouble cache({.query_heads = 1, .kv_heads = 1, .prompt = 5, .length = 5});
  const std::vector<double> ages = {4, 3, 2, 1, 0};
  const auto check = [&](const std::string& expression, const std::vector<double>& expected) {
    INFO(expression);
    const std::vector<double> found = values(expression, cache);
    for (std::size_t i = 0; i < 5; ++i) CHECK(found[i] == Approx(expected[i]).margin(1e-6));
  };
  check("age + 1 * 2 - 6 / 3", {4, 3, 2, 1, 0});
  check("2 - age - 1", {-3, -2, -1, 0, 1});
  check("-age ^ 2", {-16, -9, -4, -1, 0});
  check("2 ^ age ^ 0.5", {4, std::pow(2, std::sqrt(3)), std::pow(2, std::sqrt(2)), 2, 1});
  check("2 ^ -age", {0.0625, 0.125, 0.25, 0.5, 1});
  check("--+age", ages);
  check("(age + 1) / (age + 2)", {5 / 6.0, 4 / 5.0, 3 / 4.0, 2 / 3.0, 1 / 2.0});
  check("min(age, 2, position)", {0, 1, 2, 1, 0});
  check("max(age, position)", {4, 3, 2, 3, 4});
  check("log(exp(age)) + abs(-age) + sqrt(age ^ 2)", {12, 9, 6, 3, 0});
  check("1.5e1 + .5 * age", {17, 16.5, 16, 15.5, 15});
  check("pool_avg(age, kernel=3)", {7 / 3.0, 3, 2, 1, 1 / 3.0});
  check("pool_max(age, kernel=3)", {4, 4, 3, 2, 1});
  check("share(age)", {0.4, 0.3, 0.2, 0.1, 0});
  check("zscore(age)", {std::sqrt(2), std::sqrt(0.5), 0, -std::sqrt(0.5), -std::sqrt(2)});
  check("zscore(age * 0)", {0, 0, 0, 0, 0});
  check("rank(min(age, 2))", {0.5, 0.5, 0.5, 0.25, 0});
  const double sum = 1 + std::exp(-1) + std::exp(-2) + std::exp(-3) + std::exp(-4);
  check("softmax(age)", {1 / sum, std::exp(-1) / sum, std::exp(-2) / sum, std::exp(-3) / sum, std::exp(-4) / sum});
  check("older(age, window=2)", {4, 3, 2, 0, 0});
  check("raise_recent(age, window=2)", {4, 3, 2, 5, 5});
}

TEST_CASE("needs are those of the features used") {
  const auto needs = [](const std::string& expression) { return parse_policy("score: " + expression).needs; };
  CHECK(needs("mean(attention, window=32) * norm(v) ^ 0.5").window_queries == 32);
  CHECK_FALSE(needs("mean(attention, window=32)").all_queries);
  CHECK(needs("norm(k) + max(last(attention))").window_queries == 1);
  CHECK(needs("sum(attention)").all_queries);
  CHECK_FALSE(needs("sum(attention)").decode_attention);
  CHECK(parse_policy("formula(expression='sum(attention)',schedule=every)").needs.decode_attention);
  CHECK(needs("norm(projected)").output_weights);
  CHECK_FALSE(needs("norm(v)").output_weights);
  CHECK(needs("entropy + hidden_jump").channels ==
        std::set<traces::Channel>{traces::Channel::entropy, traces::Channel::step_norm});
  CHECK(parse_policy("formula").needs.parameters.size() == 1);
}

TEST_CASE("a formula is a policy like others: text, parts, lists, groups") {
  const std::string text = "score: mean(attention, window=32) * norm(v) ^ 0.5";
  const Policy policy = parse_policy("  " + text + " ");
  CHECK(policy.name == text);
  CHECK(policy.expansion ==
        "compose(scorer=formula(expression='mean(attention, window=32) * norm(v) ^ 0.5',group=mean),"
        "allocator=uniform(),schedule=once())");
  CHECK(parse_policy(policy.expansion).expansion == policy.expansion);

  const auto list = parse_policies("knorm, score: max(norm(v), norm(k)) / 2,score:-age");
  REQUIRE(list.size() == 3);
  CHECK(list[1].name == "score: max(norm(v), norm(k)) / 2");
  CHECK(list[2].name == "score:-age");

  const Policy parts = parse_policy(
      "adakv(formula(expression='-norm(k)',schedule=every(steps=8),protection=recent(count=32)),alpha=0.3)");
  CHECK(parts.schedule->cuts_while_decoding());
  CHECK(parts.protections.size() == 1);
  CHECK(parse_policy(parts.expansion).expansion == parts.expansion);

  CHECK(parse_policy("formula(expression='sum(attention)',group=none)").granularity == Granularity::query_head);
  const CacheDouble cache({.granularity = Granularity::query_head});
  check_equal(scores_of("formula(expression='raise_recent(pool_avg(older(mean(attention,window=6),window=6)),"
                        "window=6)',group=none)",
                        cache),
              scores_of("snapkv(window=6,group=none)", cache));
}

TEST_CASE("an error has a caret under its place") {
  const auto check = [](const std::string& expression, std::size_t place, const std::string& message,
                        ErrorCode code = ErrorCode::invalid_argument) {
    INFO(expression);
    const Refusal refusal = refusal_of(expression);
    CHECK(refusal.excerpt == expression + "\n" + std::string(place, ' ') + "^");
    CHECK_THAT(refusal.message, Contains("character " + std::to_string(place + 1) + ": ") && Contains(message));
    CHECK(refusal.message.find('\n') == std::string::npos);
    CHECK(refusal.code == code);
  };
  SECTION("syntax") {
    check("norm(k) +", 9, "expected");
    check("norm(k", 6, "',' or ')' expected");
    check("norm(k))", 7, "')' does not belong here");
    check("norm(k) norm(v)", 8, "'n' does not belong here");
    check("* age", 0, "a number, feature, function or '(' expected");
    check("age * / 2", 6, "expected");
    check("(age", 4, "')' expected");
    check("norm(k) @ host", 8, "'@' does not belong here");
    check("mean(attention, window=)", 23, "a word or number expected");
    check("age ^", 5, "expected");
    check("1e999 * age", 0, "out of range");
    check(std::string(33, '(') + "age" + std::string(33, ')'), 32, "nested too deep");
  }
  SECTION("names") {
    check("mean(atention, window=4)", 5, "nearest: attention", ErrorCode::unknown_name);
    check("2 * nrom(k)", 4, "nearest: norm", ErrorCode::unknown_name);
    check("norm", 0, "is a function");
    check("norm(k(v))", 5, "is a feature");
    check("norm(k, ordr=1)", 8, "has no option ordr", ErrorCode::unknown_name);
    check("norm(k, order=3)", 8, "1 .. 2");
    check("age + pool_avg(age, kernel=4)", 20, "odd");
    check("older(age)", 0, "needs window=");
    check("sum(attention, window=0)", 15, "1 .. 65536");
    check("sum(attention, window=4, window=5)", 25, "given twice");
  }
  SECTION("shapes") {
    check("attention", 0, "reduce it first");
    check("2 * attention", 4, "reduce it first");
    check("k + 1", 0, "norm(...)");
    check("norm(age)", 5, "norm takes vectors");
    check("norm(attention)", 5, "norm takes vectors");
    check("difference(projected)", 11, "takes k or v");
    check("age + mean(norm(k))", 11, "a number per entry and KV head");
    check("max(attention)", 0, "give a window=");
    check("mean(norm(k), window=3)", 14, "has no option window", ErrorCode::unknown_name);
    check("last(norm(k))", 5, "last takes attention");
    check("3 + 4", 2, "one number for all");
    check("zscore(seen)", 7, "one number for all");
    check("1 + raise_recent(age, window=2)", 4, "stands outside");
    check("min(age)", 0, "two arguments");
    check("norm(k, v)", 0, "takes one argument, not 2");
    check("mean(age, over=head)", 10, "group or layer");
  }
  SECTION("whatever is typed") {
    CHECK_THAT(refusal_of("\xc3\xa9 * age").excerpt, Catch::Matchers::EndsWith("\n^"));
    CHECK(refusal_of("age * \xc3\xa9").excerpt.ends_with("\n" + std::string(6, ' ') + "^"));
    CHECK_THROWS_WITH(parse_policy("score: " + std::string(2000, '-') + "age"), Contains("at most"));
    std::string powers = "age";
    while (powers.size() < 990) powers += "^age";
    CHECK_NOTHROW(parse_policy("score: " + powers));
  }
}
