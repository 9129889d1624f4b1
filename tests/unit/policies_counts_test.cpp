// Are budgets, selections and allocations counted as kvpress and the papers' code count them?
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "policies/policy.h"
#include "policies/registry.h"
#include "tests/support/cache_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;

namespace {

/// A layer of heads without tensors, for allocators.
class Entries : public LayerView {
 public:
  Entries(int heads, int entries) : heads_(heads) {
    for (int row = 0; row < entries; ++row) rows_.push_back(row);
  }
  [[nodiscard]] const models::Geometry& geometry() const override { return geometry_; }
  [[nodiscard]] const models::Rope& rope() const override { return rope_; }
  [[nodiscard]] int layer() const override { return 0; }
  [[nodiscard]] Index prompt_length() const override { return std::ssize(rows_); }
  [[nodiscard]] Index seen() const override { return std::ssize(rows_); }
  [[nodiscard]] std::span<const std::int32_t> positions() const override { return rows_; }
  [[nodiscard]] int heads() const override { return heads_; }
  [[nodiscard]] QueryHeads query_heads(int head) const override { return {head, 1}; }
  [[nodiscard]] std::span<const std::int32_t> entries(int) const override { return rows_; }
  [[nodiscard]] std::span<const float> channel(traces::Channel, int) const override { return {}; }

 private:
  int heads_;
  std::vector<std::int32_t> rows_;
  models::Geometry geometry_;
  models::Rope rope_{traces::RopeLayout::none, {}};
};

std::vector<Index> allocate(const char* policy, int entries, double exact, int layer, int layers,
                            const LayerScores& scores) {
  std::vector<Index> counts(static_cast<std::size_t>(scores.heads()), -1);
  const AllocationRequest request{
      .budget = {.cached = std::ssize(scores.of(0)), .entries = entries, .exact_entries = exact},
      .layer = layer,
      .num_layers = layers,
      .scores = &scores};
  parse_policy(policy).allocator->allocate(request, counts);
  return counts;
}

LayerScores random_scores(int heads, int entries, unsigned seed) {
  LayerScores scores(Entries(heads, entries));
  std::mt19937 generator(seed);
  for (int head = 0; head < heads; ++head) {
    const float scale = static_cast<float>(1 + head);
    for (float& score : scores.of(head)) score = scale * static_cast<float>(generator() >> 8) * 0x1p-24F;
  }
  return scores;
}

}  // namespace

TEST_CASE("entries are truncated in double precision and at least one stays") {
  CHECK(Budget::from_compression_ratio("0.7").entries(10) == 3);
  CHECK(Budget::from_compression_ratio("0.9").entries(10) == 1);  // int(0.9999999999999998) = 0, clamped
  CHECK(Budget::from_compression_ratio("0.9").text() == "0.09999999999999998");
  CHECK(Budget::from_compression_ratio("0.9").entries(20) == 1);  // 0.1 would keep 2
  CHECK(Budget::parse("0.1").entries(20) == 2);
  CHECK(Budget::from_compression_ratio("0").unlimited());
  CHECK(Budget::parse("1").unlimited());
  CHECK(Budget::parse("1.0").unlimited());
  CHECK(Budget::parse("512").entries(10) == 512);
  CHECK(Budget::parse("512").in_entries());
  for (const char* text : {"1000", "1e3", "1000.0", "1000."}) {
    INFO(text);
    CHECK(Budget::parse(text).in_entries());
    CHECK(Budget::parse(text).entries(10) == 1000);
    CHECK(Budget::parse(text).text() == text);
  }
  CHECK(Budget::parse("2.0").entries(10) == 2);
  CHECK(Budget::parse("1.5").entries(10) == 15);
  CHECK_FALSE(Budget::parse("1.03").in_entries());
  CHECK_THROWS_WITH(Budget::parse("5.5"), Catch::Matchers::Contains("5.5") && Catch::Matchers::Contains("2 .. 1e12"));
  CHECK(Budget::parse("0.50") == Budget::parse("0.5"));
  CHECK(Budget::parse("0.50").text() == "0.50");
  CHECK(Budget::parse(Budget::from_compression_ratio("0.9").text()) == Budget::from_compression_ratio("0.9"));
  for (const char* text : {"", "0", "-1", "-0.5", "nan", "inf", "0x10", "1e13", "2.5", "0.5 0.6", "half", "1e400",
                           "99999999999999999999"}) {
    INFO(text);
    CHECK_THROWS_AS(Budget::parse(text), Error);
  }
  for (const char* text : {"", "1", "-0.1", "1.5", "nan", "x"})
    CHECK_THROWS_AS(Budget::from_compression_ratio(text), Error);
}

TEST_CASE("the best are protected entries from the newest on, then scores, the older of equals") {
  LayerScores scores(Entries(1, 6));
  const std::vector<float> values = {5, 1, 3, 3, 9, 2};
  std::copy(values.begin(), values.end(), scores.of(0).begin());
  scores.protect(0, 1);
  scores.protect(0, 5);
  CHECK(rank_entries(scores, 0) == std::vector<std::int32_t>{5, 1, 4, 0, 2, 3});
  CHECK(select_best(scores, 0, 1) == std::vector<std::int32_t>{5});
  CHECK(select_best(scores, 0, 5) == std::vector<std::int32_t>{0, 1, 2, 4, 5});
  CHECK(select_best(scores, 0, 0).empty());
  CHECK(select_best(scores, 0, 99).size() == 6);
  CHECK(scores.protected_count(0) == 2);
}

TEST_CASE("ties between raised entries go to the newest, below what is protected") {
  LayerScores scores(Entries(1, 6));
  const std::vector<float> values = {5, 1, 5, 0, 0, 0};
  std::copy(values.begin(), values.end(), scores.of(0).begin());
  for (Index entry = 3; entry < 6; ++entry) scores.raise(0, entry, 6);
  CHECK(rank_entries(scores, 0) == std::vector<std::int32_t>{5, 4, 3, 0, 2, 1});
  CHECK(select_best(scores, 0, 2) == std::vector<std::int32_t>{4, 5});
  CHECK(select_best(scores, 0, 4) == std::vector<std::int32_t>{0, 3, 4, 5});
  scores.protect(0, 1);
  scores.protect(0, 3);
  CHECK(rank_entries(scores, 0) == std::vector<std::int32_t>{3, 1, 5, 4, 0, 2});
}

TEST_CASE("pyramids") {
  const LayerScores scores = random_scores(2, 192, 1);
  SECTION("library: 192 entries, half kept, window 16, beta 5, three layers") {
    // highest = 2 * 96 - 19.2 = 172.8, lowest 19.2, step 76.8.
    for (const auto& [layer, count] : {std::pair(0, 173), {1, 96}, {2, 19}}) {
      CHECK(allocate("pyramidkv(window=16,beta=5)", 96, 96, layer, 3, scores) == std::vector<Index>(2, count));
    }
  }
  SECTION("library falls back to a flat count, rounded half to even") {
    CHECK(allocate("pyramidkv", 48, 48, 0, 3, scores) == std::vector<Index>(2, 48));   // lowest 2.4 < window
    CHECK(allocate("pyramidkv", 96, 96, 0, 3, scores) == std::vector<Index>(2, 128));  // clipped: 192 - 64, 96, 64
    CHECK(allocate("pyramidkv", 2, 2.5, 0, 3, scores) == std::vector<Index>(2, 2));
    CHECK(allocate("pyramidkv", 3, 3.5, 0, 3, scores) == std::vector<Index>(2, 4));
    CHECK(allocate("pyramidkv", 1, 0.4, 0, 3, scores) == std::vector<Index>(2, 1));
    CHECK(allocate("pyramidkv(window=16,beta=5)", 96, 96, 0, 1, scores) == std::vector<Index>(2, 96));
  }
  SECTION("original: whole numbers, window beside the pyramid") {
    // base 80: lowest 4, highest 156, step 76.
    for (const auto& [layer, count] : {std::pair(0, 172), {1, 96}, {2, 20}}) {
      CHECK(allocate("pyramidkv(variant=original,window=16,beta=20)", 96, 96, layer, 3, scores) ==
            std::vector<Index>(2, count));
    }
    // 192 < 2 * (134 - 16): flat, unless heads share the budget (Ada-KV): highest 176, lowest 60, step 58.
    CHECK(allocate("pyramidkv(variant=original,window=16)", 134, 134, 2, 3, scores) == std::vector<Index>(2, 134));
    CHECK(allocate("pyramidkv(variant=original,window=16)", 10, 10, 0, 3, scores) == std::vector<Index>(2, 10));
    CHECK(allocate("pyramidkv(variant=original,window=16)", 500, 500, 0, 3, scores) == std::vector<Index>(2, 500));
    const auto shared = allocate("adakv(pyramidkv(variant=original,window=16),alpha=0)", 134, 134, 2, 3, scores);
    CHECK(shared[0] + shared[1] == 2 * (60 + 16));
  }
}

TEST_CASE("Ada-KV of the library equals raising each head's best and cutting the flattened layer") {
  for (const double alpha : {0.0, 0.2, 0.5, 1.0}) {
    for (const int kept : {1, 7, 20, 39, 40}) {
      const int heads = 3, entries = 40;
      const LayerScores scores = random_scores(heads, entries, static_cast<unsigned>(kept));
      // Brute force: raise the safe ones to infinity, sort all, keep heads * kept.
      int safe = static_cast<int>(kept * alpha);
      if (alpha > 0) safe = std::max(safe, 1);
      std::vector<std::pair<float, int>> flat;
      for (int head = 0; head < heads; ++head) {
        std::vector<float> row(scores.of(head).begin(), scores.of(head).end());
        std::sort(row.rbegin(), row.rend());
        for (int i = 0; i < entries; ++i) flat.emplace_back(i < safe ? 1e30F : row[static_cast<std::size_t>(i)], head);
      }
      std::sort(flat.rbegin(), flat.rend());
      std::vector<Index> expected(static_cast<std::size_t>(heads), 0);
      for (int i = 0; i < heads * kept; ++i)
        ++expected[static_cast<std::size_t>(flat[static_cast<std::size_t>(i)].second)];
      CHECK(allocate(("adakv(knorm(),alpha=" + std::to_string(alpha) + ")").c_str(), kept, kept, 0, 1, scores) ==
            expected);
    }
  }
}

TEST_CASE("Ada-KV of the paper mixes pooled and uniform counts beside the window") {
  LayerScores scores = random_scores(2, 30, 5);
  for (int head = 0; head < 2; ++head) {
    for (Index i = 26; i < 30; ++i) scores.protect(head, i);
  }
  const int base = 10 - 4;
  std::vector<std::pair<float, int>> flat;
  for (int head = 0; head < 2; ++head) {
    for (std::size_t i = 0; i < 26; ++i) flat.emplace_back(scores.of(head)[i], head);
  }
  std::sort(flat.rbegin(), flat.rend());
  std::vector<int> won(2, 0);
  for (std::size_t i = 0; i < 2 * base; ++i) ++won[static_cast<std::size_t>(flat[i].second)];
  REQUIRE(won[0] != won[1]);
  for (const auto& [text, alpha] : {std::pair("0", 0.0), {"0.2", 0.2}, {"0.5", 0.5}, {"1", 1.0}}) {
    std::vector<Index> expected;
    for (const int count : won) {
      expected.push_back(static_cast<Index>(std::nearbyint(count * (1 - alpha) + std::floor(base * alpha))) + 4);
    }
    CHECK(allocate(("adakv(knorm(),variant=original,alpha=" + std::string(text) + ")").c_str(), 10, 10, 0, 1, scores) ==
          expected);
  }
  // The window alone fills the budget, or everything fits: nothing moves.
  CHECK(allocate("adakv(knorm(),variant=original)", 4, 4, 0, 1, scores) == std::vector<Index>(2, 4));
  CHECK(allocate("adakv(knorm(),variant=original)", 31, 31, 0, 1, scores) == std::vector<Index>(2, 31));
}

TEST_CASE("schedules") {
  const Policy once = parse_policy("knorm");
  CHECK(once.schedule->due({.decoded = 0}));
  CHECK_FALSE(once.schedule->due({.decoded = 1}));
  CHECK_FALSE(once.schedule->cuts_while_decoding());
  const Policy every = parse_policy("knorm(schedule=every(steps=4,prompt=false))");
  CHECK_FALSE(every.schedule->due({.decoded = 0}));
  CHECK_FALSE(every.schedule->due({.decoded = 3}));
  CHECK(every.schedule->due({.decoded = 4}));
  CHECK(every.schedule->due({.decoded = 8}));
  CHECK(every.schedule->cuts_while_decoding());
}

TEST_CASE("protections mark what their names say") {
  tests::CacheDouble cache({.prompt = 10, .length = 12});
  cache.ranges["evidence"] = {{2, 4}, {7, 8}};
  cache.see(12);
  cache.resident[1] = {1, 3, 7, 9, 11};
  const auto protected_rows = [&](const char* policy) {
    LayerScores scores(cache);
    for (const auto& protection : parse_policy(policy).protections) protection->protect(cache, scores);
    std::vector<std::int32_t> rows;
    for (Index i = 0; i < std::ssize(scores.of(1)); ++i) {
      if (scores.is_protected(1, i)) rows.push_back(cache.entries(1)[static_cast<std::size_t>(i)]);
    }
    return rows;
  };
  CHECK(protected_rows("knorm").empty());
  CHECK(protected_rows("knorm(protection=sinks(count=2))") == std::vector<std::int32_t>{1});
  CHECK(protected_rows("knorm(protection=recent(count=3))") == std::vector<std::int32_t>{9, 11});
  CHECK(protected_rows("knorm(protection=prompt)") == std::vector<std::int32_t>{1, 3, 7, 9});
  CHECK(protected_rows("knorm(protection=spans(kind=evidence))") == std::vector<std::int32_t>{3, 7});
  CHECK(protected_rows("knorm(protection=spans(kind=turn))").empty());
  CHECK(protected_rows("knorm(protection=sinks(),protection=recent(count=1))") == std::vector<std::int32_t>{1, 3, 11});
}
