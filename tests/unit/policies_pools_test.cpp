// Do pools with a floor, thresholds and block-wise eviction keep what was worked out by hand?
#include <algorithm>
#include <catch2/catch.hpp>

#include "policies/policy.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::FutureDouble;

namespace {

using Counts = std::vector<Index>;

/// Scores of two heads of two entries or more each, given.
LayerScores given(const std::vector<std::vector<float>>& rows) {
  CacheDouble cache({.query_heads = static_cast<int>(rows.size()), .kv_heads = static_cast<int>(rows.size())});
  for (std::size_t head = 0; head < rows.size(); ++head) cache.resident[head].resize(rows[head].size());
  LayerScores scores(cache);
  for (std::size_t head = 0; head < rows.size(); ++head) {
    std::copy(rows[head].begin(), rows[head].end(), scores.of(static_cast<int>(head)).begin());
  }
  return scores;
}

Counts allocated(const std::string& allocator, const std::vector<LayerScores>& layers, std::int64_t entries) {
  const Policy policy = parse_policy("compose(scorer=key_norm(),allocator=" + allocator + ",schedule=once())");
  std::vector<AllocationRequest> requests;
  std::vector<Counts> counts;
  for (const LayerScores& scores : layers) {
    requests.push_back({.budget = {.cached = 4, .entries = entries, .exact_entries = static_cast<double>(entries)},
                        .layer = static_cast<int>(requests.size()),
                        .num_layers = 2,
                        .scores = &scores});
    counts.emplace_back(static_cast<std::size_t>(scores.heads()), 0);
  }
  policy.allocator->allocate_model(requests, counts);
  Counts all;
  for (const Counts& layer : counts) all.insert(all.end(), layer.begin(), layer.end());
  return all;
}

}  // namespace

TEST_CASE("a pool over layers and heads gives seats to the best entries") {
  const std::vector<LayerScores> layers = {given({{9, 1, 8, 2}, {7, 0, 0, 0}}), given({{6, 5, 0, 0}, {4, 3, 2, 1}})};
  CHECK(allocated("floor_pool()", layers, 2) == Counts{3, 1, 2, 2});
  CHECK(allocated("floor_pool(scope=layer)", layers, 2) == Counts{3, 1, 2, 2});
  CHECK(allocated("floor_pool()", layers, 1) == Counts{2, 1, 1, 0});
  CHECK(allocated("floor_pool(scope=layer)", layers, 1) == Counts{2, 0, 2, 0});
}

TEST_CASE("with a floor the authors count a head's first entry for the head before") {
  // One seat for each head is safe; 4 are pooled: 9, 8, 7, 6.
  const std::vector<LayerScores> layers = {given({{9, 1, 8, 2}, {7, 0, 0, 0}}), given({{6, 5, 0, 0}, {4, 3, 2, 1}})};
  CHECK(allocated("floor_pool(floor=1,bounds=clean)", layers, 2) == Counts{3, 2, 2, 1});
  // 7 is the first entry of head 1, counted for head 0; 6 the first of head 2, counted for head 1.
  CHECK(allocated("floor_pool(floor=1,bounds=as_code)", layers, 2) == Counts{4, 2, 1, 1});
  // Behind an empty head the head before that one gets it.
  const std::vector<LayerScores> with_gap = {given({{9, 1}, {}, {7, 0}})};
  CHECK(allocated("floor_pool(floor=1,bounds=as_code)", with_gap, 2) == Counts{4, 1, 1});
}

TEST_CASE("layers that hold unequal numbers share what the entries of all come to, not a share of the longest") {
  // Mean composites 5, 4, 3, 2 against 1: two entries a layer are four in all.
  const std::vector<LayerScores> layers = {given({{6, 5, 4, 3}, {4, 3, 2, 1}}), given({{1}, {1}})};
  CHECK(allocated("composite_ranks()", layers, 2) == Counts{4, 4, 1, 1});
  CHECK(allocated("composite_ranks()", layers, 1) == Counts{2, 2, 1, 1});
}

TEST_CASE("a threshold keeps what reaches it, at any budget") {
  const std::vector<LayerScores> layers = {given({{-1, -2, -0.5F, -3}, {-4, -5, -6, -7}})};
  CHECK(allocated("threshold(at=-2)", layers, 1) == Counts{3, 0});
  CHECK(parse_policy("key_norm(allocator=threshold(at=-2))").allocator->ignores_budget());
}

TEST_CASE("golden eviction drops in blocks what the blocks to come attend least") {
  CacheDouble cache({.query_heads = 4, .kv_heads = 2, .prompt = 24, .length = 34});
  const FutureDouble future(cache);
  constexpr Index block = 4;
  constexpr Index kept = 8;  // 9 entries are two blocks
  const auto oracle = parse_policy("foresightkv_oracle(every=4)").make_oracle();
  LayerScores scores(cache);
  oracle->score(cache, {.cached = 24, .entries = 9, .exact_entries = 9}, future, scores);
  for (int head = 0; head < cache.heads(); ++head) {
    // Mean attention of every block of rows, the last one (rows 32, 33) filled up with zeros.
    std::vector<std::vector<double>> mean;
    for (Index first = 0; first < 34; first += block) {
      std::vector<double>& row = mean.emplace_back(34, 0.0);
      for (Index token = first; token < std::min<Index>(first + block, 34); ++token) {
        std::vector<std::int32_t> all;
        for (Index i = 0; i <= token; ++i) all.push_back(static_cast<std::int32_t>(i));
        for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
          const std::vector<double> weights = cache.attention_of(query_head, token, all);
          for (std::size_t i = 0; i < weights.size(); ++i) row[i] += weights[i] / (2.0 * block);
        }
      }
    }
    std::vector<Index> held(24);
    for (Index i = 0; i < 24; ++i) held[static_cast<std::size_t>(i)] = i;
    std::vector<bool> gone(24, false);
    for (Index seen = kept + block; seen <= 24; seen += block) {
      std::vector<std::pair<double, Index>> candidates;
      for (const Index row : held) {
        if (row >= seen - block) break;
        double utility = 0;
        for (std::size_t b = static_cast<std::size_t>(seen / block); b < mean.size(); ++b) {
          utility = std::max(utility, mean[b][static_cast<std::size_t>(row)]);
        }
        candidates.emplace_back(utility, row);
      }
      REQUIRE(candidates.size() == static_cast<std::size_t>(kept));
      std::sort(candidates.begin(), candidates.end());
      for (Index i = 0; i < block; ++i) {
        const Index row = candidates[static_cast<std::size_t>(i)].second;
        gone[static_cast<std::size_t>(row)] = true;
        held.erase(std::find(held.begin(), held.end(), row));
      }
    }
    CHECK(scores.dropped_count(head) == 16);
    for (Index row = 0; row < 24; ++row) CHECK(scores.is_dropped(head, row) == gone[static_cast<std::size_t>(row)]);
    CHECK(scores.protected_count(head) == block);
  }
}

TEST_CASE("block-wise eviction takes short sequences and small budgets") {
  for (const int length : {1, 2, 3, 15, 16, 17}) {
    for (const std::int64_t entries : {1, 2, 5, 16}) {
      INFO(length << " tokens, " << entries << " entries");
      const CacheDouble cache({.query_heads = 2, .kv_heads = 1, .prompt = length, .length = length + 3});
      const FutureDouble future(cache);
      LayerScores scores(cache);
      parse_policy("golden_eviction(every=16)")
          .make_oracle()
          ->score(cache, {.cached = length, .entries = entries, .exact_entries = static_cast<double>(entries)}, future,
                  scores);
      const Index left = length - scores.dropped_count(0);
      CHECK(left >= std::min<Index>(length, entries == 1 ? 1 : entries / 2));
      // A block that is not full yet may stand above the budget.
      CHECK(left <= entries + std::max<Index>(1, entries / 2));
    }
  }
}
