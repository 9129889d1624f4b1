// Do the scores from entropy, residual steps and a prompt's last token compute their formulas, and keep what they must?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <set>

#include "policies/policy.h"
#include "tests/support/cache_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;
using traces::Channel;

namespace {

using Row = std::vector<double>;

CutBudget budget_of(const CacheDouble& cache, Index entries) {
  return {.cached = std::ssize(cache.resident[0]), .entries = entries, .exact_entries = static_cast<double>(entries)};
}

LayerScores scores_of(const std::string& text, const CacheDouble& cache, Index entries = 10) {
  const Policy policy = parse_policy(text);
  LayerScores scores(cache);
  policy.make_scorer()->score(cache, budget_of(cache, entries), scores);
  for (const auto& protection : policy.protections) protection->protect(cache, scores);
  return scores;
}

void fill_channels(CacheDouble& cache, int length) {
  std::mt19937 generator(11);
  const auto draw = [&](double low, double high) {
    std::vector<float> values;
    for (int i = 0; i < length; ++i) {
      values.push_back(static_cast<float>(low + (high - low) * static_cast<double>(generator() >> 8) * 0x1p-24));
    }
    return values;
  };
  cache.channels[{Channel::entropy, 0}] = draw(0, 5);
  for (int column = 0; column < 3; ++column) cache.channels[{Channel::entropy_top, column}] = draw(0, 4);
  cache.channels[{Channel::cos_final, 1}] = draw(-1, 1);
  for (int layer = 0; layer < 4; ++layer) cache.channels[{Channel::step_norm, layer}] = draw(1, 9);
}

CacheDouble with_channels(const CacheShape& shape) {
  CacheDouble cache(shape);
  fill_channels(cache, shape.length);
  return cache;
}

Row softmax_of(const Row& values) {
  Row weights;
  const double largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  for (const double value : values) weights.push_back(std::exp(value - largest));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

void check_close(double value, double expected) { CHECK(value == Approx(expected).epsilon(3e-6).margin(1e-8)); }

std::set<std::int32_t> kept_rows(const CacheDouble& cache, const LayerScores& scores, int head, Index count) {
  std::set<std::int32_t> rows;
  for (const std::int32_t place : select_best(scores, head, count)) {
    if (!scores.is_dropped(head, place)) rows.insert(cache.entries(head)[static_cast<std::size_t>(place)]);
  }
  return rows;
}

}  // namespace

TEST_CASE("InfoKV: window attention mixed with the softmax of the information over the whole prompt") {
  const CacheDouble cache = with_channels({.query_heads = 4, .kv_heads = 2, .prompt = 20, .length = 20});
  const auto& cosines = cache.channels.at({Channel::cos_final, 1});
  const int shift = GENERATE(0, 1);
  const std::string top = GENERATE("128", "512", "all");
  const auto& entropies = top == "all"   ? cache.channels.at({Channel::entropy, 0})
                          : top == "128" ? cache.channels.at({Channel::entropy_top, 0})
                                         : cache.channels.at({Channel::entropy_top, 2});
  const LayerScores scores = scores_of(
      "infokv(window=4,kernel=3,alpha=0.75,tau=0.5,top=" + top + ",shift=" + std::to_string(shift) + ")", cache);
  Row information;
  for (std::size_t i = 0; i < 20; ++i) {
    const std::size_t source = shift == 1 && i > 0 ? i - 1 : i;
    information.push_back((1.0 - cosines[i] + 0.5) * entropies[source]);
  }
  information = softmax_of(information);
  for (int head = 0; head < 2; ++head) {
    Row attention(16, 0.0);
    for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
      for (Index row = 16; row < 20; ++row) {
        const Row weights = cache.attention_of(query_head, row, cache.entries(head));
        for (std::size_t i = 0; i < 16; ++i) attention[i] += weights[i] / 8;
      }
    }
    for (std::size_t i = 0; i < 16; ++i) {
      const double left = i > 0 ? attention[i - 1] : 0;
      const double right = i < 15 ? attention[i + 1] : 0;
      const double pooled = (left + attention[i] + right) / 3;
      check_close(scores.of(head)[i], 0.75 * pooled + 0.25 * information[i]);
    }
    CHECK(scores.protected_count(head) == 4);
  }
}

TEST_CASE("InfoKV: alpha 1 is attention alone, and a constant added to the information changes nothing") {
  CacheDouble cache = with_channels({.prompt = 20, .length = 20});
  const LayerScores attention = scores_of("snapkv(window=4,kernel=3)", cache);
  const LayerScores only = scores_of("infokv(window=4,kernel=3,alpha=1)", cache);
  for (std::size_t i = 0; i < 16; ++i) CHECK(only.of(0)[i] == attention.of(0)[i]);
  // With one entropy for all tokens, tau adds a constant to the information.
  cache.channels[{Channel::entropy_top, 1}].assign(20, 2.0F);
  const LayerScores low = scores_of("infokv(window=4,kernel=3,tau=0)", cache);
  const LayerScores high = scores_of("infokv(window=4,kernel=3,tau=3)", cache);
  for (std::size_t i = 0; i < 16; ++i) check_close(high.of(0)[i], low.of(0)[i]);
}

TEST_CASE("InfoKV while decoding: generated tokens before the newest compete, by one score for all heads") {
  CacheDouble cache = with_channels({.query_heads = 4, .kv_heads = 2, .prompt = 10, .length = 22});
  cache.see(22);
  for (auto& rows : cache.resident) std::erase(rows, 13);  // cut before
  const LayerScores scores = scores_of("infokv(mode=decode,every=6,window=3,kernel=3,alpha=0.5,tau=1)", cache);
  const std::vector<std::int32_t> candidates = {10, 11, 12, 14, 15, 16, 17, 18};
  Row attention(candidates.size(), 0.0);
  Row information;
  for (int query_head = 0; query_head < 4; ++query_head) {
    for (Index row = 19; row < 22; ++row) {
      const Row weights = cache.attention_of(query_head, row, candidates);
      for (std::size_t i = 0; i < weights.size(); ++i) attention[i] += weights[i] / 12;
    }
  }
  for (const std::int32_t row : candidates) {
    const auto token = static_cast<std::size_t>(row);
    information.push_back((2.0 - cache.channels.at({Channel::cos_final, 1})[token]) *
                          cache.channels.at({Channel::entropy_top, 1})[token - 1]);
  }
  information = softmax_of(information);
  for (int head = 0; head < 2; ++head) {
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      double pooled = attention[i];
      if (i > 0) pooled += attention[i - 1];
      if (i + 1 < candidates.size()) pooled += attention[i + 1];
      check_close(scores.of(head)[10 + i], 0.5 * pooled / 3 + 0.5 * information[i]);
    }
    CHECK(scores.protected_count(head) == 10 + 3);
  }
}

TEST_CASE("EpiKV: how far a step stands out early in the model, less how far late") {
  CacheDouble cache = with_channels({.prompt = 12, .length = 30});
  cache.see(30);
  const auto expected = [&](int layer, std::size_t token, bool z) {
    const auto& steps = cache.channels.at({Channel::step_norm, layer});
    Row window;
    for (std::size_t i = token < 8 ? 1 : token - 7; i <= token; ++i) window.push_back(steps[i]);
    if (window.empty()) return 0.0;
    const double mean = std::accumulate(window.begin(), window.end(), 0.0) / static_cast<double>(window.size());
    if (!z) return mean;
    double squares = 0;
    for (const double step : window) squares += (step - mean) * (step - mean);
    if (window.size() < 2) return 0.0;
    return (window.back() - mean) / (std::sqrt(squares / static_cast<double>(window.size())) + 1e-6);
  };
  const LayerScores z = scores_of("hidden_jump(window=8,early=0,late=3,recent=0)", cache);
  const LayerScores mean = scores_of("hidden_jump(window=8,early=0,late=3,recent=0,score=mean)", cache);
  // Of 4 layers: 7 to 13 of 32 is layer 1, 18 to 25 of 32 is layer 3; alone they are nearest to 10/32 and 21/32, too.
  const LayerScores band = scores_of("hidden_jump(window=8,recent=0,score=band)", cache);
  for (std::size_t token = 0; token < 30; ++token) {
    check_close(z.of(1)[token], expected(0, token, true) - expected(3, token, true));
    check_close(mean.of(1)[token], expected(0, token, false) - expected(3, token, false));
    check_close(band.of(0)[token], expected(1, token, true) - expected(3, token, true));
  }
}

TEST_CASE("EpiKV: scale and origin of a layer's steps do not count; prompt and newest tokens are safe") {
  CacheDouble cache = with_channels({.prompt = 12, .length = 30});
  cache.see(30);
  const LayerScores before = scores_of("epikv(window=8)", cache, 20);
  for (float& step : cache.channels[{Channel::step_norm, 1}]) step = 4 * step + 16;
  const LayerScores after = scores_of("epikv(window=8)", cache, 20);
  for (std::size_t i = 12; i < 25; ++i) CHECK(after.of(0)[i] == Approx(before.of(0)[i]).epsilon(1e-4));
  CHECK(before.protected_count(0) == 12 + 20 / 4);
  CHECK(scores_of("epikv(recent=3)", cache, 20).protected_count(0) == 12 + 3);
  CHECK_THROWS_AS(scores_of("epikv(early=9)", cache), Error);
}

TEST_CASE("EpiKV: a score is fixed when its token is seen") {
  CacheDouble cache = with_channels({.prompt = 12, .length = 30});
  const std::unique_ptr<Scorer> scorer = parse_policy("hidden_jump(window=8,recent=0)").make_scorer();
  LayerScores at_prompt(cache);
  scorer->score(cache, budget_of(cache, 10), at_prompt);
  cache.see(20);
  for (float& step : cache.channels[{Channel::step_norm, 1}]) step += 1;  // nothing looks back
  LayerScores later(cache);
  scorer->score(cache, budget_of(cache, 10), later);
  for (std::size_t i = 0; i < 12; ++i) CHECK(later.of(0)[i] == at_prompt.of(0)[i]);
}

TEST_CASE("EpiKV's lag variant: the spread of a token's channels in the ranges of the chunk before") {
  CacheDouble cache({.query_heads = 2, .kv_heads = 1, .head_dim = 4, .prompt = 9, .length = 12});
  cache.see(12);
  const auto spread = [](const models::Matrix& rows, Index token) {
    const Index first = (token / 4 - 1) * 4;
    if (first < 0) return 0.0;
    Row placed;
    for (Index c = 0; c < rows.cols(); ++c) {
      const auto chunk = rows.col(c).segment(first, 4).cast<double>();
      placed.push_back((rows(token, c) - chunk.minCoeff()) / (chunk.maxCoeff() - chunk.minCoeff()));
    }
    const double mean = std::accumulate(placed.begin(), placed.end(), 0.0) / 4;
    double squares = 0;
    for (const double value : placed) squares += (value - mean) * (value - mean) / 4;
    return squares;
  };
  const LayerScores both = scores_of("epikv(variant=lag_kv,lag=4,recent=1)", cache);
  const LayerScores key = scores_of("lag_variance(of=key,lag=4,recent=0)", cache);
  for (Index token = 0; token < 12; ++token) {
    const double of_key = spread(cache.all_keys[0], token);
    check_close(key.of(0)[static_cast<std::size_t>(token)], of_key);
    check_close(both.of(0)[static_cast<std::size_t>(token)], (of_key + spread(cache.all_values[0], token)) / 2);
  }
  CHECK(both.protected_count(0) == 9 + 1);
}

TEST_CASE("SAGE-KV: sinks, the newest, and the union of what each query head's last token attends to") {
  const CacheDouble cache({.query_heads = 4, .kv_heads = 2, .prompt = 24, .length = 30});
  const Index budget = 16;  // 4 sinks, 4 of each of 2 query heads, 4 newest
  const LayerScores scores = scores_of("sagekv", cache, budget);
  const LayerScores filled = scores_of("sagekv(fill=true)", cache, budget);
  for (int head = 0; head < 2; ++head) {
    std::set<std::int32_t> expected = {0, 1, 2, 3, 20, 21, 22, 23};
    for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
      const Row weights = cache.attention_of(query_head, 23, cache.entries(head));
      std::vector<std::int32_t> middle(16);
      std::iota(middle.begin(), middle.end(), 4);
      std::sort(middle.begin(), middle.end(), [&](std::int32_t a, std::int32_t b) {
        return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)];
      });
      expected.insert(middle.begin(), middle.begin() + 4);
    }
    CHECK(kept_rows(cache, scores, head, budget) == expected);
    CHECK(expected.size() >= 4 + 4 + 4);
    const std::set<std::int32_t> full = kept_rows(cache, filled, head, budget);
    CHECK(full.size() == 16);
    CHECK(std::includes(full.begin(), full.end(), expected.begin(), expected.end()));
  }
}

TEST_CASE("SAGE-KV while decoding: what was chosen is frozen, the newest slide") {
  CacheDouble cache({.query_heads = 2, .kv_heads = 1, .prompt = 24, .length = 30});
  const std::unique_ptr<Scorer> scorer = parse_policy("sagekv").make_scorer();
  LayerScores first(cache);
  scorer->score(cache, budget_of(cache, 16), first);
  const std::set<std::int32_t> kept = kept_rows(cache, first, 0, 16);
  cache.resident[0] = {kept.begin(), kept.end()};
  std::set<std::int32_t> expected = kept;
  for (Index seen = 25; seen <= 30; ++seen) {
    cache.see(seen);
    LayerScores scores(cache);
    scorer->score(cache, budget_of(cache, 16), scores);
    const std::set<std::int32_t> now = kept_rows(cache, scores, 0, 16);
    expected.insert(static_cast<std::int32_t>(seen - 1));
    expected.erase(static_cast<std::int32_t>(seen - 5));  // 4 newest
    CHECK(now == expected);
    cache.resident[0] = {now.begin(), now.end()};
  }
}

TEST_CASE("SAGE-KV: a prompt within the budget loses nothing, and its room goes to the newest") {
  CacheDouble cache({.query_heads = 2, .kv_heads = 1, .prompt = 10, .length = 30});
  const std::unique_ptr<Scorer> scorer = parse_policy("sagekv").make_scorer();
  for (Index seen = 10; seen <= 30; ++seen) {
    cache.see(seen);
    LayerScores scores(cache);
    scorer->score(cache, budget_of(cache, 12), scores);
    const std::set<std::int32_t> now = kept_rows(cache, scores, 0, 12);
    CHECK(std::ssize(now) == std::min<Index>(seen, 12));
    CHECK(now.contains(static_cast<std::int32_t>(seen - 1)));
    cache.resident[0] = {now.begin(), now.end()};
  }
}

TEST_CASE("these scores are finite for the shortest sequences and all group sizes") {
  const int kv_heads = GENERATE(1, 2, 4, 8);
  const int prompt = GENERATE(1, 2, 4, 5);
  CacheDouble cache = with_channels({.query_heads = 8, .kv_heads = kv_heads, .prompt = prompt, .length = 12});
  for (const Index seen : {Index{prompt}, Index{12}}) {
    cache.see(seen);
    for (const char* policy : {"infokv(window=4)", "infokv(mode=decode,window=4)", "epikv", "epikv(score=band)",
                               "epikv(score=mean)", "epikv(variant=lag_kv,lag=2)", "sagekv", "sagekv(fill=true)"}) {
      for (const Index entries : {1, 3, 40}) {
        INFO(policy << ", prompt " << prompt << ", seen " << seen << ", entries " << entries);
        const LayerScores scores = scores_of(policy, cache, entries);
        for (int head = 0; head < scores.heads(); ++head) {
          const auto row = scores.of(head);
          CHECK(std::all_of(row.begin(), row.end(), [](float score) { return std::isfinite(score); }));
          CHECK(scores.dropped_count(head) < std::ssize(row));
        }
      }
    }
  }
}
