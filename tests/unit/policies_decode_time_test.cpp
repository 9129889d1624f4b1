// Do R-KV, RPC and MorphKV score as plain loops over their formulas do, and are schedules and counts those of their
// code?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/policy.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;

namespace {

using Row = std::vector<double>;
using Places = std::vector<std::size_t>;

double dot(const models::Matrix& a, Index row, const models::Matrix& b, Index other) {
  double sum = 0;
  for (Index c = 0; c < a.cols(); ++c) sum += static_cast<double>(a(row, c)) * static_cast<double>(b(other, c));
  return sum;
}

Row softmax(const Row& logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  Row weights;
  double sum = 0;
  for (const double logit : logits) sum += weights.emplace_back(std::exp(logit - highest));
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// Logits of token `row` of a query head over the given token rows.
Row logits_of(const CacheDouble& cache, int query_head, Index row, const std::vector<std::int32_t>& entries) {
  const auto kv_head = static_cast<std::size_t>(cache.geometry().kv_head_of(query_head));
  Row logits;
  for (const std::int32_t entry : entries) {
    logits.push_back(dot(cache.all_queries[static_cast<std::size_t>(query_head)], row, cache.all_keys[kv_head], entry) *
                     cache.geometry().attention_scale);
  }
  return logits;
}

/// R-KV's score of a head (two query heads) whose cache holds `rows` in this order, the window last.
Row rkv(const CacheDouble& cache, int head, const std::vector<std::int32_t>& rows, std::size_t window, Index kernel,
        double lambda, double threshold) {
  const std::size_t count = rows.size() - window;
  const std::vector<std::int32_t> candidates(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(count));
  Row attention(count, 0.0);
  for (std::size_t w = 0; w < window; ++w) {
    const Index row = cache.seen() - static_cast<Index>(window - w);
    Row first = logits_of(cache, 2 * head, row, candidates);
    const Row second = logits_of(cache, 2 * head + 1, row, candidates);
    for (std::size_t i = 0; i < count; ++i) first[i] = std::max(first[i], second[i]);
    const Row weights = softmax(first);
    for (std::size_t i = 0; i < count; ++i) attention[i] += weights[i] / static_cast<double>(window);
  }
  const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head)];
  Row means(rows.size(), 0.0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Row cosine(rows.size(), 0.0);
    std::size_t last = 0;
    for (std::size_t j = 0; j < rows.size(); ++j) {
      if (i == j) continue;
      cosine[j] = dot(keys, rows[i], keys, rows[j]) /
                  std::sqrt(dot(keys, rows[i], keys, rows[i]) * dot(keys, rows[j], keys, rows[j]));
      if (cosine[j] > threshold) last = j;
    }
    cosine[last] = 0;
    for (std::size_t j = 0; j < rows.size(); ++j) means[j] += cosine[j] / static_cast<double>(rows.size());
  }
  const Row redundancy = softmax(means);
  Row scores;
  for (std::size_t i = 0; i < count; ++i) {
    double pooled = 0;
    for (Index j = static_cast<Index>(i) - kernel / 2; j <= static_cast<Index>(i) + kernel / 2; ++j) {
      if (j >= 0 && j < static_cast<Index>(count)) pooled = std::max(pooled, attention[static_cast<std::size_t>(j)]);
    }
    scores.push_back(lambda * pooled - (1 - lambda) * redundancy[i]);
  }
  return scores;
}

LayerScores scored(Scorer& scorer, const CacheDouble& cache, std::int64_t entries) {
  LayerScores scores(cache);
  scorer.score(
      cache,
      {.cached = std::ssize(cache.resident[0]), .entries = entries, .exact_entries = static_cast<double>(entries)},
      scores);
  return scores;
}

}  // namespace

TEST_CASE("R-KV scores and reorders its cache as its code does") {
  const bool by_score = GENERATE(true, false);
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt = 20, .length = 32});
  const auto scorer = parse_policy(std::string("rkv(window=3,kernel=3,lambda=0.3,threshold=0.4,order=") +
                                   (by_score ? "score)" : "position)"))
                          .make_scorer();
  std::vector<std::vector<std::int32_t>> order(2);
  for (auto& rows : order) {
    rows.resize(20);
    std::iota(rows.begin(), rows.end(), 0);
  }
  for (int cut = 0; cut < 3; ++cut) {
    const LayerScores scores = scored(*scorer, cache, 9);
    for (int head = 0; head < 2; ++head) {
      auto& rows = order[static_cast<std::size_t>(head)];
      auto& resident = cache.resident[static_cast<std::size_t>(head)];
      const Row expected = rkv(cache, head, rows, 3, 3, 0.3, 0.4);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto place = std::lower_bound(resident.begin(), resident.end(), rows[i]) - resident.begin();
        INFO("cut " << cut << ", head " << head << ", row " << rows[i]);
        CHECK(scores.of(head)[static_cast<std::size_t>(place)] == Approx(expected[i]).epsilon(1e-5).margin(1e-7));
      }
      CHECK(scores.protected_count(head) == 3);
      // The best six in order of score, then the window.
      Places best(expected.size());
      std::iota(best.begin(), best.end(), std::size_t{0});
      std::stable_sort(best.begin(), best.end(),
                       [&](std::size_t a, std::size_t b) { return expected[a] > expected[b]; });
      std::vector<std::int32_t> kept;
      for (std::size_t i = 0; i < 6; ++i) kept.push_back(rows[best[i]]);
      kept.insert(kept.end(), rows.end() - 3, rows.end());
      resident = kept;
      std::sort(resident.begin(), resident.end());
      rows = by_score ? kept : resident;
      for (int step = 0; step < 4; ++step) rows.push_back(static_cast<std::int32_t>(cache.seen() + step));
    }
    cache.see(cache.seen() + 4);
  }
}

TEST_CASE("RPC weighs generated tokens before the window, the newest query twice") {
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt = 6, .length = 32});
  cache.see(15);
  const std::vector<std::int32_t> candidates = {6, 7, 8, 9, 10, 11};
  const std::string group = GENERATE("all", "group");
  const auto scorer = parse_policy("rpc(window=3,kernel=3,group=" + group + ")").make_scorer();
  const LayerScores scores = scored(*scorer, cache, 5);
  for (int head = 0; head < 2; ++head) {
    Row sum(candidates.size(), 0.0);
    const int first = group == "all" ? 0 : 2 * head;
    const int last = group == "all" ? 4 : 2 * head + 2;
    for (int query_head = first; query_head < last; ++query_head) {
      for (const Index row : {13, 14, 14}) {
        const Row weights = softmax(logits_of(cache, query_head, row, candidates));
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += weights[i] / (last - first);
      }
    }
    // With group=all the softmax of a query head runs over its own KV head's keys; the mean is the same for both heads.
    for (std::size_t i = 0; i < sum.size(); ++i) {
      const double before = i == 0 ? 0 : sum[i - 1];
      const double behind = i + 1 == sum.size() ? 0 : sum[i + 1];
      INFO("head " << head << ", entry " << candidates[i]);
      CHECK(scores.of(head)[6 + i] == Approx((before + sum[i] + behind) / 3).epsilon(1e-5));
    }
    CHECK(scores.protected_count(head) == 9);
    CHECK(scores.is_protected(head, 5));
    CHECK(scores.is_protected(head, 12));
  }
}

TEST_CASE("MorphKV adds the logits of a group before the softmax over what is older than the window") {
  CacheDouble cache({.query_heads = 2, .kv_heads = 1, .head_dim = 4, .prompt = 10, .length = 16});
  cache.resident[0] = {0, 2, 3, 5, 6, 7, 8, 9};
  const std::vector<std::int32_t> candidates = {0, 2, 3, 5, 6, 7};
  const std::string fusion = GENERATE("max", "sum");
  const LayerScores scores = scored(*parse_policy("morphkv(window=2,fusion=" + fusion + ")").make_scorer(), cache, 5);
  Row fused(candidates.size(), 0.0);
  for (const Index row : {8, 9}) {
    Row logits = logits_of(cache, 0, row, candidates);
    const Row second = logits_of(cache, 1, row, candidates);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] += second[i];
    const Row weights = softmax(logits);
    for (std::size_t i = 0; i < fused.size(); ++i) {
      fused[i] = fusion == "max" ? std::max(fused[i], weights[i]) : fused[i] + weights[i];
    }
  }
  for (std::size_t i = 0; i < fused.size(); ++i) CHECK(scores.of(0)[i] == Approx(fused[i]).epsilon(1e-5));
  CHECK(scores.protected_count(0) == 2);
}

TEST_CASE("short sequences are kept whole") {
  const std::string policy =
      GENERATE("rkv", "morphkv", "rpc", "h2o", "scissorhands", "scissorhands(variant=code)", "openvino", "kv_compress");
  const int length = GENERATE(1, 2, 8, 9);
  CacheDouble cache({.query_heads = 3, .kv_heads = 1, .head_dim = 4, .prompt = length, .length = 16});
  const LayerScores scores = scored(*parse_policy(policy).make_scorer(), cache, length);
  for (const float score : scores.of(0)) CHECK(std::isfinite(score));
  CHECK(scores.dropped_count(0) == 0);
}

TEST_CASE("when the schedules of the field cut") {
  const auto cuts = [](const std::string& schedule, std::int64_t prompt) {
    const Policy policy = parse_policy("knorm(schedule=" + schedule + ")");
    std::vector<std::int64_t> rows;
    for (std::int64_t decoded = 0; decoded <= 20; ++decoded) {
      if (policy.schedule->due({.decoded = decoded, .row = prompt - 1 + decoded})) rows.push_back(prompt - 1 + decoded);
    }
    return rows;
  };
  using Cuts = std::vector<std::int64_t>;
  CHECK(cuts("every(steps=8)", 10) == Cuts{9, 17, 25});
  // R-KV: the prompt at once, then rows t with t mod 8 = 0.
  CHECK(cuts("every(steps=8,counted=sequence)", 10) == Cuts{9, 16, 24});
  // RPC: first after 6 + 2 generated tokens, then every 6.
  CHECK(cuts("every(steps=6,prompt=false,phase=8)", 10) == Cuts{17, 23, 29});
  // Ends of blocks of 16: rows t with (t + 1) mod 16 = 0.
  CHECK(cuts("every(steps=16,prompt=false,counted=sequence,phase=15)", 10) == Cuts{15});

  const Policy head = parse_policy("knorm(schedule=overflow(entries=4))");
  CHECK(head.schedule->due({.decoded = 0, .resident = 1, .entries = 100}));
  CHECK_FALSE(head.schedule->due({.decoded = 1, .resident = 103, .entries = 100}));
  CHECK(head.schedule->due({.decoded = 1, .resident = 104, .entries = 100}));
  const Policy pooled = parse_policy("knorm(schedule=overflow(entries=4,pooled=true,prompt=false))");
  CHECK_FALSE(pooled.schedule->due({.decoded = 0, .resident = 300, .entries = 100, .total = 311, .heads = 3}));
  CHECK(pooled.schedule->due({.decoded = 0, .resident = 104, .entries = 100, .total = 312, .heads = 3}));
}

TEST_CASE("named systems expand to their schedules and counts") {
  CHECK(parse_policy("rpc(every=8,window=4,ratio=4)")
            .expansion.find("allocator=per_interval(keep=2,window=4),schedule=every(steps=8,prompt=false,counted="
                            "decoded,phase=12)") != std::string::npos);
  CHECK(parse_policy("rpc(every=8,window=4,ratio=3,schedule=every)")
            .expansion.find("keep=2,window=4),schedule=every(steps=8,prompt=false,counted=decoded,phase=8)") !=
        std::string::npos);
  CHECK(parse_policy("rkv(every=16)").expansion.find("schedule=every(steps=16,prompt=true,counted=sequence,phase=0)") !=
        std::string::npos);
  CHECK(parse_policy("h2o(evict=interval,interval=5)").expansion.find("schedule=every(steps=5,") != std::string::npos);
  CHECK(parse_policy("h2o(evict=prompt)").expansion.find("schedule=once()") != std::string::npos);
  CHECK(parse_policy("h2o(variant=prefill,evict=step)").expansion.find("schedule=every(steps=1,") != std::string::npos);
  CHECK(parse_policy("knorm(skip_layers=2)").expansion ==
        "compose(scorer=key_norm(),allocator=skip_layers(uniform(),first=2),schedule=once())");
}
