// Are whole blocks chosen as KV-Compress and OpenVINO's evictor choose them, and counts those worked out by hand?
#include <catch2/catch.hpp>
#include <cmath>

#include "policies/block_eviction.h"
#include "policies/policy.h"
#include "tests/support/cache_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::StepDouble;

namespace {

using Blocks = std::vector<Index>;
using Counts = std::vector<Index>;
using Values = std::vector<double>;

/// Scores of a head each, as they are.
LayerScores given(const CacheDouble& cache, const std::vector<std::vector<float>>& values) {
  LayerScores scores(cache);
  for (std::size_t head = 0; head < values.size(); ++head) {
    std::copy(values[head].begin(), values[head].end(), scores.of(static_cast<int>(head)).begin());
  }
  return scores;
}

AllocationRequest request(const LayerScores& scores, std::int64_t cached, std::int64_t entries) {
  return {.budget = {.cached = cached, .entries = entries, .exact_entries = static_cast<double>(entries)},
          .layer = 1,
          .num_layers = 4,
          .scores = &scores};
}

Counts counts_of(const std::string& allocator, const AllocationRequest& asked) {
  Counts counts(static_cast<std::size_t>(asked.scores->heads()), 0);
  parse_policy("snapkv(allocator=" + allocator + ")").allocator->allocate(asked, counts);
  return counts;
}

CacheDouble two_heads(int prompt) {
  return CacheDouble({.query_heads = 2, .kv_heads = 2, .head_dim = 4, .prompt = prompt, .length = 64});
}

/// Sum over query heads of what every entry receives from a token, then the best of each and the `pool` - 1 behind it.
Values received(const CacheDouble& cache, Index row, std::size_t pool) {
  Values sums(cache.entries(0).size(), 0.0);
  for (int head = 0; head < 2; ++head) {
    const Values attention = cache.attention_of(head, row, cache.entries(head));
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += attention[i];
  }
  Values pooled;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    double best = sums[i];
    for (std::size_t j = i; j < std::min(sums.size(), i + pool); ++j) best = std::max(best, sums[j]);
    pooled.push_back(best);
  }
  return pooled;
}

}  // namespace

TEST_CASE("whole blocks are freed where the best entry that goes is weakest") {
  CacheDouble cache = two_heads(7);
  // Blocks of 3: a head of 7 frees 1 entry first, then 3.
  const LayerScores scores = given(cache, {{9, 1, 8, 2, 7, 3, 6}, {5, 5, 5, 0.5F, 5, 5, 5}});
  // Costs: head 0: 1 (entry 1), then the best of 2, 3, 6 = 6; head 1: 0.5, then 5.
  CHECK(counts_of("whole_blocks(block=3)", request(scores, 7, 7)) == Counts{7, 7});
  CHECK(counts_of("whole_blocks(block=3)", request(scores, 7, 6)) == Counts{6, 6});
  CHECK(counts_of("whole_blocks(block=3)", request(scores, 7, 5)) == Counts{6, 3});
  CHECK(counts_of("whole_blocks(block=3)", request(scores, 7, 4)) == Counts{3, 3});
  // Below a block, no head is cut further than the budget.
  CHECK(counts_of("whole_blocks(block=3)", request(scores, 7, 2)) == Counts{2, 2});
}

TEST_CASE("blocks compete over layers, and protected entries go last") {
  CacheDouble cache = two_heads(4);
  LayerScores first = given(cache, {{1, 1, 1, 1}, {8, 8, 8, 8}});
  const LayerScores second = given(cache, {{2, 2, 2, 2}, {9, 9, 9, 9}});
  const auto allocator = parse_policy("kv_compress(block=2,every=0)").allocator;
  CHECK(allocator->scope() == AllocationScope::model_each_cut);
  std::vector<AllocationRequest> layers = {request(first, 4, 3), request(second, 4, 3)};
  std::vector<Counts> counts(2, Counts(2));
  allocator->allocate_model(layers, counts);
  CHECK(counts == std::vector<Counts>{{2, 4}, {2, 4}});
  for (Index entry = 0; entry < 4; ++entry) first.protect(0, entry);
  allocator->allocate_model(layers, counts);
  CHECK(counts == std::vector<Counts>{{4, 2}, {2, 4}});
}

TEST_CASE("counts of intervals, of room below the budget, of layers skipped") {
  CacheDouble cache = two_heads(10);
  const LayerScores scores(cache);
  AllocationRequest asked = request(scores, 10, 7);
  asked.prompt_length = 10;
  asked.cut = 3;
  CHECK(counts_of("per_interval(keep=2,window=4)", asked) == Counts{20, 20});
  CHECK(counts_of("below_budget(drop=0.5)", asked) == Counts{4, 4});
  CHECK(counts_of("below_budget(drop=1)", asked) == Counts{1, 1});
  CHECK(counts_of("skip_layers(uniform(),first=1)", asked) == Counts{7, 7});
  CHECK(counts_of("skip_layers(uniform(),first=2)", asked) == Counts{10, 10});
  CHECK(parse_policy("rpc").allocator->ignores_budget());
}

TEST_CASE("the weakest blocks, of equals the earlier") {
  CHECK(weakest_blocks(Values{3, 1, 2, 1}, 2) == Blocks{1, 3});
  CHECK(weakest_blocks(Values{1, 1, 1}, 2) == Blocks{0, 1});
  CHECK(weakest_blocks(Values{1, 2}, 0).empty());
  CHECK(weakest_blocks(Values{2, 1}, 5) == Blocks{0, 1});
}

TEST_CASE("KVCrush keeps blocks of even distance to its anchor") {
  // Blocks of 2; the better half are tokens 0, 3, 4, 5: bits 10 01 11 00.
  const Values scores = {9, 1, 2, 8, 7, 6, 0, 3};
  CHECK(mean_pattern(scores, 2) == std::vector<int>{0, 0});
  const std::vector<int> zeros = {0, 0};
  // Distances 1, 1, 2, 0; sorted 3, 0, 1, 2; two of four in steps of two: 3 and 1.
  CHECK(crush_representatives(scores, zeros, {0, 1, 2, 3}, 2) == Blocks{1, 3});
  // Of the evicted only: distances 1, 0; sorted 3, 0.
  CHECK(crush_representatives(scores, zeros, {0, 3}, 1) == Blocks{3});
  CHECK(crush_representatives(scores, std::vector<int>{1, 0}, {0, 1, 2, 3}, 1) == Blocks{0});
  CHECK(crush_representatives(scores, zeros, {2}, 4) == Blocks{2});
  CHECK(mean_pattern(Values{5, 1, 6, 2, 0, 7}, 2) == std::vector<int>{1, 0});
}

TEST_CASE("adaptive R-KV keeps the mass, then what resembles the rest least") {
  models::Matrix keys(4, 2);
  keys << 1, 0, 1, 0.1F, 0, 1, 1, -0.1F;
  const std::vector<models::MatrixView> heads = {models::view(keys.data(), 4, 2)};
  // 0.5 of the mass is block 0; of the others block 2 points elsewhere.
  CHECK(adaptive_blocks_to_evict(Values{6, 2, 1, 3}, heads, 2, 0.5) == Blocks{1, 3});
  // 0.75 takes blocks 0 and 3.
  CHECK(adaptive_blocks_to_evict(Values{6, 2, 1, 3}, heads, 2, 0.75) == Blocks{1, 2});
  CHECK(adaptive_blocks_to_evict(Values{6, 2, 1, 3}, heads, 4, 0.5).empty());
}

TEST_CASE("OpenVINO's areas, sums and lifetimes") {
  CacheDouble cache = two_heads(13);
  const std::string mode = GENERATE("norm_sum", "sum");
  const auto scorer =
      parse_policy("openvino(block=2,start=2,recent=4,max_pool=3,snapkv_window=3,aggregation=" + mode + ")")
          .make_scorer();
  scorer->begin_decode(cache);
  cache.see(14);
  scorer->observe(StepDouble(cache));
  // 11 entries at most: 10 in areas of 2, 4 and 4, and one that is being filled.
  LayerScores scores(cache);
  scorer->score(cache, {.cached = 14, .entries = 11, .exact_entries = 11}, scores);

  Values expected(14, 0.0);
  {
    CacheDouble prompt = two_heads(13);
    Values window(13, 0.0);
    for (const Index row : {10, 11, 12}) {
      const Values one = received(prompt, row, 1);
      for (std::size_t i = 0; i < 13; ++i) window[i] += one[i];
    }
    for (std::size_t i = 0; i < 13; ++i) {
      for (std::size_t j = i; j < std::min<std::size_t>(13, i + 3); ++j) expected[i] = std::max(expected[i], window[j]);
    }
  }
  const Values step = received(cache, 13, 3);
  for (std::size_t i = 0; i < 14; ++i) {
    expected[i] += step[i];
    // Queries 10, 11, 12 and 13; later entries met fewer.
    if (mode == "norm_sum") expected[i] /= i < 10 ? 4.0 : 14.0 - static_cast<double>(i);
  }
  for (std::size_t i = 0; i < 14; ++i) {
    INFO("entry " << i);
    CHECK(scores.of(0)[i] == Approx(expected[i]).epsilon(1e-5));
  }
  // 14 entries are 7 blocks; 1 at the start and 2 recent ones stay, of the 4 between them the weakest 2 go.
  Values blocks(4, 0.0);
  for (std::size_t i = 0; i < 8; ++i) blocks[i / 2] += expected[2 + i];
  const Blocks gone = weakest_blocks(blocks, 2);
  for (Index place = 0; place < 14; ++place) {
    const bool evicted = place >= 2 && place < 10 && std::find(gone.begin(), gone.end(), (place - 2) / 2) != gone.end();
    INFO("entry " << place);
    CHECK(scores.is_dropped(0, place) == evicted);
    CHECK(scores.is_dropped(1, place) == evicted);
  }
}

TEST_CASE("OpenVINO's options leave no more than the budget") {
  const std::string option =
      GENERATE("crush=1,anchor=mean", "crush=2,anchor=random", "crush=40", "aggregation=adaptive_rkv",
               "snapkv_window=0", "block=1,start=0,recent=0", "block=16");
  const int budget = GENERATE(1, 2, 3, 5, 12, 17, 33);
  CacheDouble cache = two_heads(41);
  const auto scorer = parse_policy("openvino(" + option + ")").make_scorer();
  LayerScores scores(cache);
  scorer->score(cache, {.cached = 41, .entries = budget, .exact_entries = static_cast<double>(budget)}, scores);
  INFO(option << ", budget " << budget);
  CHECK(41 - scores.dropped_count(0) <= budget);
  CHECK(41 - scores.dropped_count(0) > budget / 2);
  LayerScores whole(cache);
  scorer->score(cache, {.cached = 41, .entries = 41, .exact_entries = 41}, whole);
  CHECK(whole.dropped_count(0) == 0);
  CHECK_THROWS_AS(parse_policy("openvino(block=24)"), Error);
}
