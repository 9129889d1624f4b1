// Does serving under eviction obey what must hold for any profile?
#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "sim/serving/profiled_cache.h"
#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;

namespace {

class RandomEviction {
 public:
  explicit RandomEviction(std::uint32_t seed) : random_(seed) {}

  double share() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  std::int64_t number(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
  }

  sim::CacheProfile profile() {
    sim::CacheProfile profile;
    profile.in_entries = number(0, 1) == 1;
    const double scale = profile.in_entries ? 100 : 1;
    for (std::int64_t group = number(1, 4); group > 0; --group) {
      profile.heads.push_back({scale * share(), number(1, 5)});
      profile.kv_heads += profile.heads.back().weight;
    }
    if (number(0, 1) == 1) {
      profile.level = scale * share();
      profile.growth = number(0, 1) == 1 ? 0 : share() / 4;
    }
    if (number(0, 2) == 0) {
      profile.attended = sim::CacheProfile::Reads{scale * share(), share() / 4, share()};
      profile.stored_share = share() / 8;
      profile.scanned_share = share() / 8;
      profile.recalled = scale * share() / 8;
    }
    if (number(0, 2) == 0) profile.stored_per_entry = 0.1 + share() / 2;
    profile.scored = scale * share();
    return profile;
  }

  sim::ServingOptions options() {
    sim::ServingOptions options;
    auto cost = milliseconds_per_step(1);
    cost->per_entry = number(100, 10000) * 256;
    cost->per_prefill_token = 1'000'000;
    options.replicas.step_cost = cost;
    options.replicas.blocks = number(30, 200);
    options.replicas.block_tokens = static_cast<int>(number(1, 16));
    options.replicas.token_budget = number(8, 300);
    options.replicas.max_sequences = number(1, 20);
    options.prefix_cache = number(0, 1) == 1;
    options.reserve_full_prompt = number(0, 1) == 1;
    return options;
  }

  std::vector<traces::WorkloadRequest> requests() {
    std::vector<traces::WorkloadRequest> made;
    double arrival = 0;
    for (std::int64_t i = number(5, 60); i > 0; --i) {
      arrival += 0.001 * static_cast<double>(number(0, 30));
      made.push_back(request(arrival, number(1, 250), number(1, 120)));
      if (number(0, 1) == 1) {
        for (std::uint64_t block = 0; block < 6; ++block) made.back().prefix_blocks.push_back(1000 + block);
        made.back().prefix_block_tokens = 16;
      }
    }
    return made;
  }

 private:
  std::mt19937 random_;
};

bool same(const sim::RequestRecord& left, const sim::RequestRecord& right) {
  return left.scheduled == right.scheduled && left.first_token == right.first_token && left.finish == right.finish &&
         left.preemptions == right.preemptions && left.computed_tokens == right.computed_tokens &&
         left.cached_tokens == right.cached_tokens && left.status == right.status;
}

}  // namespace

TEST_CASE("closed form and step by step agree under random profiles of policies") {
  std::int64_t preemptions = 0, changes = 0, steps = 0, cached = 0, completed = 0, demoted = 0, refused = 0;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    RandomEviction random(seed);
    sim::ServingOptions options = random.options();
    sim::CacheProfile profile = random.profile();
    if (seed % 2 == 0) {
      // A part of every prompt goes to a host with room for a few of them, in every other case not for the longest.
      profile.host_share = 0.5;
      sim::TierOptions host{.name = "host", .capacity_bytes = seed % 4 == 0 ? 150'000 : 100'000};
      host.link.up = host.link.down = {.bytes_per_second = 10'000'000, .latency = ms};
      options.kv_bytes_per_token = 1000;
      options.tiers = sim::KvTiers{.tiers = {host}, .write_down = sim::WriteDown::none};
      if (seed % 8 == 0) options.preemption = sim::Preemption::swap;
    }
    options.replicas.resident = sim::profiled_cache(std::move(profile), 1e-6);
    auto requests = random.requests();
    constexpr double late = 1000;  // when all others are done
    requests.push_back(request(late, 1, 1));
    const sim::ServingResult result = serve(options, requests);
    options.step_by_step = true;
    options.check_every_change = true;
    const sim::ServingResult reference = serve(options, requests);
    REQUIRE(result.requests.size() == reference.requests.size());
    for (std::size_t i = 0; i < result.requests.size(); ++i) {
      CAPTURE(i);
      REQUIRE(same(result.requests[i], reference.requests[i]));
      cached += result.requests[i].cached_tokens;
    }
    REQUIRE(result.replicas == reference.replicas);
    REQUIRE(result.series == reference.series);
    if (options.tiers) {
      const sim::KvTierTotals& host = result.replicas[0].tiers.at(0);
      REQUIRE(host.peak_bytes <= options.tiers->tiers[0].capacity_bytes);
      REQUIRE(result.series.at(static_cast<std::size_t>(late) - 1).tier_bytes[0] == 0);  // all is given back
      REQUIRE(result.completed + result.refused == static_cast<std::int64_t>(requests.size()));
      demoted += result.replicas[0].demoted_bytes;
      refused += result.refused;
    }
    preemptions += result.replicas[0].preemptions;
    completed += result.completed;
    changes += result.changes;
    steps += reference.changes;
  }
  CHECK(changes < steps / 2);
  CHECK(preemptions > 100);
  CHECK(cached > 1000);
  CHECK(completed > 3000);
  CHECK(demoted > 10'000'000);
  CHECK(refused > 10);
}

TEST_CASE("blocks and reads are linear as promised, whole at the full budget and less at smaller ones") {
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    RandomEviction random(seed);
    const auto cache = sim::profiled_cache(random.profile(), 1e-6);
    const std::int64_t prompt = random.number(1, 400);
    const int block_tokens = static_cast<int>(random.number(1, 16));
    for (std::int64_t context = prompt + 1; context < prompt + 300;) {
      const sim::ReadSpan span = cache->reads(prompt, context);
      REQUIRE(span.until >= context);
      REQUIRE(span.units_per_token >= 0);
      std::int64_t before = 0;
      for (std::int64_t later = context; later <= std::min(span.until, prompt + 300); ++later) {
        REQUIRE(cache->reads(prompt, later).units == span.units + span.units_per_token * (later - context));
        const std::int64_t blocks = cache->blocks(prompt, later, block_tokens);
        REQUIRE(blocks >= std::max<std::int64_t>(before, 1));
        REQUIRE(blocks <= (later + block_tokens - 1) / block_tokens);
        before = blocks;
      }
      context = span.until < prompt + 300 ? span.until + 1 : prompt + 300;
    }
  }
}

TEST_CASE("where memory is short, a smaller budget serves the same requests no slower") {
  sim::ServingOptions options;
  auto cost = milliseconds_per_step(5);
  cost->per_entry = 256'000'000;
  options.replicas.step_cost = cost;
  options.replicas.blocks = 300;
  const std::vector<traces::WorkloadRequest> requests(200, request(0, 1000, 100));
  const sim::ServingResult full = serve(options, requests);
  REQUIRE(full.completed == 200);
  sim::Time before = full.end;
  for (const double budget : {1.0, 0.8, 0.6, 0.4, 0.2, 0.1}) {
    CAPTURE(budget);
    sim::CacheProfile profile;
    profile.heads = {{budget, 1}};
    profile.kv_heads = 1;
    options.replicas.resident = sim::profiled_cache(profile, 0);
    const sim::ServingResult result = serve(options, requests);
    CHECK(result.completed == 200);
    CHECK(result.end <= before);
    if (budget == 1) {
      CHECK(result.end == full.end);
      CHECK(result.replicas == full.replicas);
    }
    before = result.end;
  }
  CHECK(before < full.end / 2);
}
