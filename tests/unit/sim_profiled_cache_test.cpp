// Do profiles of policies give the blocks and reads that one works out by hand?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "models/llm.h"
#include "sim/serving/mixed_cache.h"
#include "sim/serving/profiled_cache.h"
#include "tests/support/serving_double.h"
#include "traces/error.h"

using namespace evictsim;
using sim::CacheProfile;

namespace {

CacheProfile profile_of(std::vector<CacheProfile::Heads> heads, std::int64_t kv_heads) {
  CacheProfile profile;
  profile.policy = "made_up";
  profile.budget = "0.5";
  profile.heads = std::move(heads);
  profile.kv_heads = kv_heads;
  return profile;
}

double entries_read(const sim::ResidentCache& cache, std::int64_t prompt, std::int64_t context) {
  return static_cast<double>(cache.reads(prompt, context).units) / static_cast<double>(cache.units_per_entry());
}

}  // namespace

TEST_CASE("a cut prompt is held whole until its end, then its heads by whole pages") {
  // Of four heads one keeps all of a prompt, three a tenth of it.
  const auto cache = sim::profiled_cache(profile_of({{0.1, 3}, {1.0, 1}}, 4), 0);
  REQUIRE(cache);
  CHECK(cache->blocks(1000, 1, 16) == 1);
  CHECK(cache->blocks(1000, 1000, 16) == 63);
  // After one decoded token: three heads of 101 entries, 7 pages each; one of 1001, 63 pages. 84 pages by 4 heads.
  CHECK(cache->blocks(1000, 1001, 16) == 21);
  // 113 entries are 8 pages, 1013 are 64: 88 pages, by 4.
  CHECK(cache->blocks(1000, 1013, 16) == 22);
  CHECK(entries_read(*cache, 1000, 1001) == Approx((3 * 100 + 1000) / 4.0 + 1));
  const sim::ReadSpan span = cache->reads(1000, 1001);
  CHECK(span.units_per_token == cache->units_per_entry());
  CHECK(span.until == std::numeric_limits<std::int64_t>::max());
  CHECK(span.extra == 0);
  CHECK(cache->chunk(100, 10).context == 110);
  CHECK(cache->chunk(100, 10).pairs == 1000 + 55);
}

TEST_CASE("a budget in entries keeps short prompts whole and fills up to its level") {
  CacheProfile profile = profile_of({{256, 8}}, 8);
  profile.in_entries = true;
  profile.level = 257;
  profile.growth = 0;
  const auto cache = sim::profiled_cache(profile, 0);
  REQUIRE(cache);
  CHECK(entries_read(*cache, 10000, 10001) == 257);
  CHECK(entries_read(*cache, 10000, 20000) == 257);
  CHECK(cache->blocks(10000, 10001, 16) == 17);
  CHECK(cache->blocks(10000, 20000, 16) == 17);
  // 100 tokens: one more with each token until 257.
  CHECK(entries_read(*cache, 100, 101) == 101);
  const sim::ReadSpan filling = cache->reads(100, 101);
  CHECK(filling.units_per_token == cache->units_per_entry());
  CHECK(filling.until == 257);
  CHECK(entries_read(*cache, 100, 257) == 257);
  CHECK(entries_read(*cache, 100, 258) == 257);
  CHECK(cache->reads(100, 258).units_per_token == 0);
  CHECK(cache->blocks(100, 101, 16) == 7);
}

TEST_CASE("digests, scans, scores and recall are paid for") {
  CacheProfile profile = profile_of({{1.0, 2}}, 2);
  profile.stored_share = 1.0 / 16;                     // digests: memory
  profile.attended = CacheProfile::Reads{0.25, 0, 0};  // a quarter is attended
  profile.scanned_share = 1.0 / 16;                    // after a look at all digests
  profile.scored = 0.5;                                // keys of half of the prompt
  profile.recalled = 0.125;                            // and an eighth comes from the host
  const auto cache = sim::profiled_cache(profile, 2e-9);
  REQUIRE(cache);
  const sim::ReadSpan span = cache->reads(1600, 1601);
  const double units = static_cast<double>(cache->units_per_entry());
  CHECK(static_cast<double>(span.units) / units == 400 + 100 + 0.5 * 800 + 1.0 / 16);
  CHECK(static_cast<double>(span.units_per_token) / units == 1.0 / 16);
  CHECK(span.extra == 400'000'000);  // 200 entries of 2 ns
  // 1601 entries and 100 of digests, but never more blocks than tokens have.
  CHECK(cache->blocks(1600, 1601, 16) == 101);
}

TEST_CASE("entries that are stored smaller take fewer pages") {
  CacheProfile profile = profile_of({{0.5, 2}}, 2);
  profile.stored_per_entry = 0.25;
  const auto cache = sim::profiled_cache(profile, 0);
  REQUIRE(cache);
  CHECK(cache->blocks(1600, 1601, 16) == 13);  // 200.25 entries
  CHECK(cache->blocks(1600, 1632, 16) == 13);  // 208
  CHECK(cache->blocks(1600, 1633, 16) == 14);
}

TEST_CASE("caches of query heads count for each of them, and never above the whole context") {
  const auto cache = sim::profiled_cache(profile_of({{0.1, 8}}, 2), 0);  // four query heads per KV head
  REQUIRE(cache);
  CHECK(entries_read(*cache, 1600, 1601) == 4 * 161);
  CHECK(cache->blocks(1600, 1601, 16) == 4 * 11);
  const auto whole = sim::profiled_cache(profile_of({{0.5, 8}}, 2), 0);
  CHECK(whole->blocks(1600, 1601, 16) == 101);
}

TEST_CASE("a prompt needs its whole memory until it is computed, and gives it back then") {
  sim::ServingOptions options;
  options.replicas.step_cost = tests::milliseconds_per_step(1);
  options.replicas.resident = sim::profiled_cache(profile_of({{0.1, 1}}, 1), 0);
  options.sample_period = 1'000'000;
  options.batch_wait = 0;
  options.batching = GENERATE(sim::Batching::continuous, sim::Batching::whole_batch);
  options.replicas.blocks = 9;
  CHECK(tests::serve(options, {tests::request(0, 160, 20)}).refused == 1);
  options.replicas.blocks = 10;
  const sim::ServingResult result = tests::serve(options, {tests::request(0, 160, 20)});
  CHECK(result.completed == 1);
  CHECK(result.replicas[0].peak_used_blocks == 10);
  REQUIRE(result.series.size() > 10);
  CHECK(result.series[0].used_blocks == 10);
  CHECK(result.series[2].used_blocks == 2);  // 16 of the prompt, and what was decoded
  // Two fit one after the other only, though both would fit once they are cut.
  const std::vector<traces::WorkloadRequest> both = {tests::request(0, 160, 20), tests::request(0, 160, 20)};
  const sim::ServingResult two = tests::serve(options, both);
  CHECK(two.completed == 2);
  CHECK(two.replicas[0].peak_used_blocks == 10);
}

TEST_CASE("what keeps everything is no cache of its own, and impossible profiles are refused") {
  CHECK_FALSE(sim::profiled_cache(profile_of({{1.0, 4}}, 4), 1));
  CHECK_THROWS_AS(sim::profiled_cache(profile_of({}, 4), 0), Error);
  CHECK_THROWS_AS(sim::profiled_cache(profile_of({{-0.5, 4}}, 4), 0), Error);
  CHECK_THROWS_AS(sim::profiled_cache(profile_of({{std::numeric_limits<double>::quiet_NaN(), 4}}, 4), 0), Error);
  CacheProfile growing = profile_of({{0.5, 4}}, 4);
  growing.growth = 2;
  CHECK_THROWS_AS(sim::profiled_cache(growing, 0), Error);
}

TEST_CASE("a policy beside sliding windows rules the layers that keep everything, and only those") {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  const models::Llm llm = models::find_llm("gpt-oss-120b");  // every other layer has a window of 128
  CHECK(sim::evictable_share(llm) == 0.5);
  const auto cache = sim::mixed_cache(llm, sim::profiled_cache(profile_of({{0.1, 8}}, 8), 0));
  REQUIRE(cache);
  CHECK(entries_read(*cache, 1000, 1001) == Approx((101 + 128) / 2.0));
  CHECK(entries_read(*cache, 1000, 1101) == Approx((201 + 128) / 2.0));
  CHECK(cache->blocks(1000, 1000, 16) == 36);  // (63 + 8) / 2
  CHECK(cache->blocks(1000, 1001, 16) == 8);   // (7 + 8) / 2
  CHECK(cache->chunk(0, 100).pairs == 5050);
  for (const std::int64_t prompt : {50, 120, 1000}) {
    std::int64_t context = 1;
    while (context < prompt + 300) {
      const sim::ReadSpan span = cache->reads(prompt, context);
      const std::int64_t last = std::min<std::int64_t>(span.until, prompt + 300);
      for (std::int64_t at = context; at <= last; ++at) {
        CHECK(cache->reads(prompt, at).units == span.units + (at - context) * span.units_per_token);
      }
      context = last + 1;
    }
  }
  const auto plain = sim::profiled_cache(profile_of({{0.1, 8}}, 8), 0);
  CHECK(sim::mixed_cache(models::find_llm("llama-3.1-8b"), plain) == plain);
  CHECK_THROWS_AS(sim::mixed_cache(models::find_llm("glm-5"), plain), Error);
}
