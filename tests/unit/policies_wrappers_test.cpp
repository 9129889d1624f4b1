// Do policies around other policies (and those that choose sets themselves) score and keep what they should?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>

#include "policies/policy.h"
#include "policies/subset_view.h"
#include "tests/support/cache_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

using Places = std::vector<std::int32_t>;

CutBudget share_budget(const CacheView& cache, double share) {
  const Index cached = std::ssize(cache.entries(0));
  const double exact = static_cast<double>(cached) * share;
  return {.cached = cached,
          .entries = std::max<Index>(1, static_cast<Index>(exact)),
          .exact_entries = exact,
          .share = share};
}

LayerScores scores_of(const std::string& policy, const CacheView& cache, double share) {
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(cache, share_budget(cache, share), scores);
  return scores;
}

/// What the policy keeps of a head: its allocator's count of its best.
Places kept_of(const std::string& policy, const CacheView& cache, double share, int head) {
  const Policy parsed = parse_policy(policy);
  LayerScores scores = scores_of(policy, cache, share);
  for (const auto& protection : parsed.protections) protection->protect(cache, scores);
  std::vector<Index> counts(static_cast<std::size_t>(cache.heads()), -1);
  parsed.allocator->allocate({.budget = share_budget(cache, share),
                              .layer = cache.layer(),
                              .num_layers = 4,
                              .scores = &scores,
                              .prompt_length = cache.prompt_length(),
                              .seen = cache.seen()},
                             counts);
  return select_best(scores, head, counts[static_cast<std::size_t>(head)]);
}

double key_norm(const CacheDouble& cache, int head, Index row) {
  return cache.all_keys[static_cast<std::size_t>(head)].row(row).cast<double>().norm();
}

/// The `count` of `rows` with the smallest keys, ascending.
Places smallest_keys(const CacheDouble& cache, int head, Places rows, std::size_t count) {
  std::sort(rows.begin(), rows.end(),
            [&](std::int32_t a, std::int32_t b) { return key_norm(cache, head, a) < key_norm(cache, head, b); });
  rows.resize(std::min(count, rows.size()));
  std::sort(rows.begin(), rows.end());
  return rows;
}

Places range(std::int32_t first, std::int32_t last) {
  Places rows(static_cast<std::size_t>(last - first));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

/// W_O of random numbers, hidden size = Hq * d.
void add_output_weights(CacheDouble& cache) {
  const Index width = cache.geometry().hidden_size;
  cache.w_o = models::Matrix(width, width);
  for (Index i = 0; i < width * width; ++i) cache.w_o.data()[i] = std::sin(static_cast<float>(7 * i + 3));
}

/// Mean over the group of |W_O^(h) v_j|_1.
double written(const CacheDouble& cache, int head, Index row) {
  const QueryHeads group = cache.query_heads(head);
  double sum = 0;
  for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
    const models::MatrixView weights = cache.output_weights(query_head);
    for (Index out = 0; out < weights.rows(); ++out) {
      double image = 0;
      for (Index c = 0; c < weights.cols(); ++c) {
        image += static_cast<double>(weights(out, c)) * cache.all_values[static_cast<std::size_t>(head)](row, c);
      }
      sum += std::abs(image) / group.count;
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("a subset shows its rows from 0 on, and attention over its entries alone") {
  CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 20});
  cache.ranges["question"] = {{2, 9}, {15, 18}};
  const SubsetView view(cache, 6, 16, {{6, 8, 9, 15}, {7, 10}});
  CHECK(view.seen() == 10);
  CHECK(view.prompt_length() == 10);
  CHECK(std::vector<std::int32_t>(view.entries(0).begin(), view.entries(0).end()) == Places{0, 2, 3, 9});
  CHECK(view.positions()[0] == 6);
  CHECK(view.query_rows().size() == 10);
  CHECK(view.keys(1)(1, 3) == cache.all_keys[1](10, 3));
  CHECK(view.values(0)(3, 0) == cache.all_values[0](15, 0));
  CHECK(view.queries(2)(4, 1) == cache.all_queries[2](10, 1));
  const models::MatrixView window = view.window_attention(1, 8);
  for (Index r = 0; r < 8; ++r) {
    const Index row = 8 + r;  // of the whole cache
    const std::vector<double> expected = cache.attention_of(1, row, Places{6, 8, 9, 15});
    for (Index i = 0; i < 4; ++i) CHECK(window(i, r) == Approx(expected[static_cast<std::size_t>(i)]).margin(1e-7));
  }
  CHECK(view.accumulated_attention(3)[4] > 0);  // row 10
  CHECK(view.accumulated_attention(3)[5] == 0);
  REQUIRE(view.spans("question").size() == 2);
  CHECK(view.spans("question")[0] == traces::Span{0, 3});
  CHECK(view.spans("question")[1] == traces::Span{9, 10});
  CHECK_THROWS_AS(view.second_pass_chunks(), Error);
  CHECK(view.generator(0)() != cache.generator(0)());
  CHECK(SubsetView(cache, 0, 5).generator(0)() == cache.generator(0)());
}

TEST_CASE("chunk: every run of tokens keeps its share") {
  const CacheDouble cache(CacheShape{.prompt = 23});
  for (int head = 0; head < 2; ++head) {
    Places expected;
    for (const auto& [first, last, count] : {std::tuple(0, 10, 3), std::tuple(10, 20, 3), std::tuple(20, 23, 1)}) {
      const Places part = smallest_keys(cache, head, range(first, last), static_cast<std::size_t>(count));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    CHECK(kept_of("chunk(knorm(),length=10)", cache, 0.35, head) == expected);
    CHECK(kept_of("chunk(knorm(),length=99)", cache, 0.35, head) == smallest_keys(cache, head, range(0, 23), 8));
  }
  // Sinks are each chunk's own first tokens.
  const Places kept = kept_of("chunk(cur(sinks=2),length=10)", cache, 0.35, 0);
  for (const std::int32_t sink : {0, 1, 10, 11}) CHECK(std::binary_search(kept.begin(), kept.end(), sink));
}

TEST_CASE("block: what was kept competes with the next block") {
  const CacheDouble cache(CacheShape{.prompt = 24});
  for (int head = 0; head < 2; ++head) {
    Places kept = range(0, 9);
    const Eigen::MatrixXd keys = cache.all_keys[static_cast<std::size_t>(head)].cast<double>();
    for (std::int32_t first = 9; first < 24; first += 4) {
      for (std::int32_t row = first; row < std::min(first + 4, 24); ++row) kept.push_back(row);
      Eigen::VectorXd anchor = Eigen::VectorXd::Zero(8);
      for (const std::int32_t row : kept) anchor += keys.row(row).transpose().normalized();
      std::sort(kept.begin(), kept.end(), [&](std::int32_t a, std::int32_t b) {
        return keys.row(a).normalized().dot(anchor) < keys.row(b).normalized().dot(anchor);
      });
      kept.resize(9);
    }
    std::sort(kept.begin(), kept.end());
    CHECK(kept_of("block(keydiff(),size=4)", cache, 0.4, head) == kept);
    CHECK(kept_of("block(knorm(),size=4)", cache, 1.0, head) == range(0, 24));
    CHECK(kept_of("block(snapkv(window=3),size=5)", cache, 0.4, head).size() == 9);
  }
}

TEST_CASE("chunkkv: whole chunks by their mean over heads") {
  const CacheDouble cache(CacheShape{.prompt = 23});
  std::vector<double> chunks;
  for (std::int32_t first = 0; first < 23; first += 5) {
    double sum = 0;
    const std::int32_t last = std::min(first + 5, 23);
    for (std::int32_t row = first; row < last; ++row) sum -= key_norm(cache, 0, row) + key_norm(cache, 1, row);
    chunks.push_back(sum / (last - first));
  }
  std::vector<std::size_t> order = {0, 1, 2, 3, 4};
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return chunks[a] > chunks[b]; });
  Places expected;
  for (std::int32_t row = 0; row < 23; ++row) {
    const auto chunk = static_cast<std::size_t>(row / 5);
    if (chunk == order[0] || chunk == order[1]) expected.push_back(row);
  }
  for (int head = 0; head < 2; ++head) {
    CHECK(kept_of("chunkkv(knorm(),chunk=5)", cache, 0.5, head) == expected);  // int(5 * 0.5) = 2
    CHECK(kept_of("chunkkv(knorm(),chunk=24)", cache, 0.5, head) == smallest_keys(cache, head, range(0, 23), 11));
  }
  // 8 window tokens of 20 are two raised chunks of 4; of the two the newer stays.
  const CacheDouble even(CacheShape{.prompt = 20});
  CHECK(kept_of("chunkkv(snapkv(window=8),chunk=4)", even, 0.2, 0) == range(16, 20));
}

TEST_CASE("criticalkv: half by score, half by score times what the value writes") {
  CacheDouble cache(CacheShape{.query_heads = 6, .kv_heads = 2, .prompt = 20});
  add_output_weights(cache);
  const LayerScores base = scores_of("snapkv(window=4)", cache, 0.5);
  const LayerScores scores = scores_of("criticalkv(snapkv(window=4),first_stage=0.3,epsilon=0.01)", cache, 0.65);
  for (int head = 0; head < 2; ++head) {
    const Places first = select_best(base, head, 3);  // int(13 * 0.3)
    for (std::int32_t row = 0; row < 20; ++row) {
      const auto place = static_cast<std::size_t>(row);
      if (std::binary_search(first.begin(), first.end(), row)) {
        CHECK(scores.of(head)[place] == std::numeric_limits<float>::max());
      } else {
        CHECK(scores.of(head)[place] ==
              Approx((base.of(head)[place] + 0.01) * written(cache, head, row)).epsilon(1e-5));
      }
    }
  }
  CHECK(parse_policy("criticalkv").needs.output_weights);
  const LayerScores none = scores_of("criticalkv(first_stage=0)", cache, 0.5);
  CHECK(*std::max_element(none.of(0).begin(), none.of(0).end()) < 1e30F);
}

TEST_CASE("criticaladakv: Ada-KV's counts, filled in two stages") {
  CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 24});
  add_output_weights(cache);
  const LayerScores base = scores_of("knorm", cache, 0.5);
  std::vector<Index> counts(2);
  parse_policy("adakv(knorm(),alpha=0.25)")
      .allocator->allocate({.budget = share_budget(cache, 0.5), .num_layers = 4, .scores = &base}, counts);
  CHECK(counts[0] + counts[1] == 24);
  for (int head = 0; head < 2; ++head) {
    const Index count = counts[static_cast<std::size_t>(head)];
    const Index by_score = std::max<Index>(3, static_cast<Index>(static_cast<double>(count) * 0.5));
    Places expected = select_best(base, head, by_score);
    Places rest;
    for (std::int32_t row = 0; row < 24; ++row) {
      if (!std::binary_search(expected.begin(), expected.end(), row)) rest.push_back(row);
    }
    std::sort(rest.begin(), rest.end(), [&](std::int32_t a, std::int32_t b) {
      return (base.of(head)[static_cast<std::size_t>(a)] + 1e-4) * written(cache, head, a) >
             (base.of(head)[static_cast<std::size_t>(b)] + 1e-4) * written(cache, head, b);
    });
    expected.insert(expected.end(), rest.begin(), rest.begin() + (count - by_score));
    std::sort(expected.begin(), expected.end());
    CHECK(kept_of("criticaladakv(knorm(),alpha=0.25)", cache, 0.5, head) == expected);
  }
}

TEST_CASE("finch: the question's attention, weighted by what each token could see") {
  CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 20});
  cache.ranges["question"] = {{3, 5}, {15, 18}};
  for (const bool normalize : {true, false}) {
    const std::string options = std::string("normalize=") + (normalize ? "true" : "false");
    const LayerScores scores = scores_of("finch(" + options + ")", cache, 0.5);
    for (int head = 0; head < 2; ++head) {
      std::vector<double> expected(15, 0.0);
      for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
        for (Index row = 15; row < 20; ++row) {
          const auto weights = cache.attention_of(query_head, row, cache.entries(head));
          for (std::size_t i = 0; i < 15; ++i) {
            expected[i] += weights[i] * (normalize ? static_cast<double>(row) : 1.0) / 10;
          }
        }
      }
      for (std::size_t i = 0; i < 15; ++i) CHECK(scores.of(head)[i] == Approx(expected[i]).epsilon(1e-5));
      CHECK(scores.is_raised(head, 15));
      CHECK_FALSE(scores.is_raised(head, 14));
    }
  }
  CHECK(parse_policy("finch").needs.spans.contains("question"));
  CHECK(parse_policy("finch(window=5)").needs.spans.empty());
  const LayerScores by_number = scores_of("finch(window=5)", cache, 0.5);
  CHECK(by_number.of(1)[7] == scores_of("finch", cache, 0.5).of(1)[7]);

  const Places kept = kept_of("finch(window=5,chunk=8)", cache, 0.3, 0);
  CHECK(std::count_if(kept.begin(), kept.end(), [](std::int32_t row) { return row < 8; }) == 2);    // int(2.4)
  CHECK(std::count_if(kept.begin(), kept.end(), [](std::int32_t row) { return row >= 16; }) == 1);  // int(1.2)
  CHECK(kept.size() == 5);
}

TEST_CASE("simlayerkv: lazy layers keep both ends, whatever the budget") {
  const CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 24});
  double mass = 0;
  for (int query_head = 0; query_head < 4; ++query_head) {
    for (Index row = 22; row < 24; ++row) {
      const auto weights = cache.attention_of(query_head, row, cache.entries(0));
      for (const int i : {0, 1, 2, 17, 18, 19, 20, 21}) mass += weights[static_cast<std::size_t>(i)] / 8;
    }
  }
  const auto text = [](double threshold) {
    return "simlayerkv(last=2,recent=5,initial=3,threshold=" + std::to_string(threshold) + ")";
  };
  CHECK(kept_of(text(mass - 0.01), cache, 0.5, 1) == Places{0, 1, 2, 21, 22, 23});
  CHECK(kept_of(text(mass + 0.01), cache, 0.5, 1) == range(0, 24));
  CHECK(kept_of("simlayerkv(last=2,recent=19,initial=3,threshold=0)", cache, 0.5, 0) == range(0, 24));
  CHECK(kept_of("simlayerkv(recent=5)", cache, 0.5, 0) == range(0, 24));
  CHECK(parse_policy(text(0.5)).allocator->ignores_budget());
  CHECK_THROWS_AS(parse_policy("simlayerkv(last=5,recent=5)"), Error);
}

TEST_CASE("dms: scores of arrival against a threshold, outside the newest") {
  CacheDouble cache(CacheShape{.kv_heads = 1, .prompt = 12, .length = 20});
  const double threshold = -key_norm(cache, 0, 4);
  const std::string text = "dms(knorm(),window=3,decoding=true,threshold=" + std::to_string(threshold - 1e-4) + ")";
  Places expected;
  for (std::int32_t row = 0; row < 12; ++row) {
    if (row >= 9 || -key_norm(cache, 0, row) >= threshold - 1e-4) expected.push_back(row);
  }
  CHECK(kept_of(text, cache, 0.9, 0) == expected);
  CHECK(kept_of(text, cache, 0.1, 0) == expected);

  // A scorer that looks at all keys sees a token that arrives while decoding alone.
  const Policy policy = parse_policy("dms(keydiff(),window=3,decoding=true)");
  const auto scorer = policy.make_scorer();
  LayerScores prompt(cache);
  scorer->score(cache, share_budget(cache, 0.5), prompt);
  cache.see(14);
  LayerScores later(cache);
  scorer->score(cache, share_budget(cache, 0.5), later);
  for (std::size_t i = 0; i < 12; ++i) CHECK(later.of(0)[i] == prompt.of(0)[i]);
  CHECK(later.of(0)[12] == Approx(-1));
  CHECK(later.of(0)[13] == Approx(-1));
}

TEST_CASE("mean over heads: all heads keep the same tokens") {
  CacheDouble cache(CacheShape{.prompt = 16});
  cache.resident[1] = {0, 1, 2, 5, 9};
  const LayerScores scores = scores_of("mean_over_heads(knorm())", cache, 0.5);
  CHECK(scores.of(0)[3] == Approx(-key_norm(cache, 0, 3)));
  CHECK(scores.of(0)[5] == Approx(-(key_norm(cache, 0, 5) + key_norm(cache, 1, 5)) / 2));
  CHECK(scores.of(1)[3] == scores.of(0)[5]);
}

TEST_CASE("shares by layer and by tokens seen") {
  CacheDouble cache(CacheShape{.prompt = 20, .length = 32});
  CHECK(kept_of("knorm(allocator=layer_shares(removed='0.5 0.9 0'))", cache, 0.5, 0).size() == 1);  // int(1.99..)
  CHECK_THROWS_AS(kept_of("knorm(allocator=layer_shares(removed='0.5'))", cache, 0.5, 0), Error);
  CHECK_THROWS_AS(parse_policy("knorm(allocator=layer_shares(removed='0.5,1'))"), Error);
  CHECK_FALSE(parse_policy("knorm(allocator=layer_shares())").needs.parameters.empty());
  cache.see(32);
  CHECK(kept_of("knorm(allocator=seen_share(removed=0.7))", cache, 0.5, 1).size() == 9);  // int(32 * 0.3)
}

TEST_CASE("entropy_chunkkv: important chunks with one high score keep their best tokens only") {
  // One KV head of key norms made so that knorm scores are -norm: chunk 0 even and good, chunk 1 spiky and best.
  CacheDouble cache(CacheShape{.query_heads = 1, .kv_heads = 1, .prompt = 12});
  const std::vector<float> norms = {2, 2, 2, 2, 9, 0.5F, 9, 8, 7, 7, 7, 6};
  for (Index row = 0; row < 12; ++row) {
    cache.all_keys[0].row(row) *= norms[static_cast<std::size_t>(row)] / cache.all_keys[0].row(row).norm();
  }
  // Means -2, -6.625, -6.75: the median is -6.625. Entropies of shares (score less the lowest): chunk 0 has none
  // (all 0), chunk 1 0.24, chunk 2 none (a single share): no chunk lies below the median 0.
  CHECK(kept_of("entropy_chunkkv(knorm(),chunk=4,spiky=1)", cache, 0.5, 0) == Places{0, 1, 2, 3, 5, 7});
  // With scores that differ a little, chunk 0 is even and chunk 1 below the median: it keeps one token.
  const std::vector<float> other = {2, 2.1F, 2.2F, 2.3F, 3.9F, 0.1F, 3.9F, 4, 7, 7.5F, 7.1F, 8};
  for (Index row = 0; row < 12; ++row) {
    cache.all_keys[0].row(row) *= other[static_cast<std::size_t>(row)] / cache.all_keys[0].row(row).norm();
  }
  CHECK(kept_of("entropy_chunkkv(knorm(),chunk=4,spiky=1)", cache, 0.5, 0) == Places{0, 1, 2, 3, 5, 8});
  CHECK(kept_of("entropy_chunkkv(knorm(),chunk=4,spiky=1)", cache, 1.0, 0) == range(0, 12));
}
