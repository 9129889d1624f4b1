// Do prefixes go down to tiers and come back, and requests swap, when and as long as worked out by hand?
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "sim/serving/profiled_cache.h"
#include "sim/serving/tier_setup.h"
#include "tests/support/serving_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::tests;
using sim::Time;

namespace {

/// 1 MB/s each way.
sim::TierOptions tier(const char* name, std::int64_t bytes, Time latency = 1 * ms) {
  sim::TierOptions options{.name = name, .capacity_bytes = bytes};
  options.link.up = options.link.down = {.bytes_per_second = 1'000'000, .latency = latency};
  return options;
}

/// Steps of 10 ms and 1 ms per token of a prompt; 4 blocks of 4 tokens, 1000 bytes each.
sim::ServingOptions scarce(std::vector<sim::TierOptions> tiers, sim::LoadRule rule = sim::LoadRule::load) {
  sim::ServingOptions options;
  auto cost = milliseconds_per_step(10);
  cost->per_prefill_token = femtoseconds_per_millisecond;
  options.replicas.step_cost = cost;
  options.replicas.blocks = 4;
  options.replicas.block_tokens = 4;
  options.replicas.token_budget = 100;
  options.kv_bytes_per_token = 1000;
  options.check_every_change = true;
  options.tiers = sim::KvTiers{.tiers = std::move(tiers), .rule = rule};
  return options;
}

traces::WorkloadRequest named(double arrival, std::int64_t prompt, std::vector<std::uint64_t> names) {
  traces::WorkloadRequest made = request(arrival, prompt, 1);
  made.prefix_blocks = std::move(names);
  made.prefix_block_tokens = 4;
  return made;
}

/// The second takes all blocks of the first, whose prompt comes again: 2 of its 3 blocks are looked for.
const std::vector<traces::WorkloadRequest> again = {named(0, 12, {1, 2, 3}), named(0.1, 16, {}),
                                                    named(0.2, 12, {1, 2, 3})};

}  // namespace

TEST_CASE("blocks that are handed out anew go to the host, and a request waits for them") {
  const sim::ServingResult result = serve(scarce({tier("host", 100'000)}), again);
  const sim::RequestRecord& third = result.requests.at(2);
  // 8000 bytes take 9 ms, then 4 tokens 14 ms.
  CHECK(third.scheduled == 209 * ms);
  CHECK(third.finish == 223 * ms);
  CHECK(third.cached_tokens == 8);
  CHECK(third.loaded_tokens == 8);
  CHECK(third.computed_tokens == 4);
  const sim::KvTierTotals& host = result.replicas.at(0).tiers.at(0);
  CHECK(host.loaded_tokens == 8);
  // Three blocks at 100 ms; two of the four that are taken at 200 ms have no name.
  CHECK(host.peak_bytes == 12'000);
  CHECK(host.down_bytes == 12'000);
  CHECK(host.up_bytes == 8'000);
  CHECK(host.down_busy == 12 * ms);
  CHECK(host.up_busy == 8 * ms);
  CHECK(result.replicas.at(0).cached_tokens == 0);
}

TEST_CASE("loading or computing again: what is done first, unless told") {
  // Computing all 12 tokens takes 22 ms, loading 8 and computing 4 takes 23 ms, or 22.9 with a latency of 0.9 ms.
  CHECK(serve(scarce({tier("host", 100'000)}, sim::LoadRule::recompute), again).requests.at(2).finish == 222 * ms);
  CHECK(serve(scarce({tier("host", 100'000)}, sim::LoadRule::earlier), again).requests.at(2).finish == 222 * ms);
  const sim::ServingResult faster = serve(scarce({tier("host", 100'000, 0)}, sim::LoadRule::earlier), again);
  // A tie computes; layer by layer loading wins.
  CHECK(faster.requests.at(2).finish == 222 * ms);
  CHECK(faster.requests.at(2).loaded_tokens == 0);
  sim::ServingOptions layered = scarce({tier("host", 100'000)}, sim::LoadRule::earlier);
  layered.tiers->overlapped_layers = 4;
  // The longer of 9 and 14 ms, and one of four layers of the shorter.
  CHECK(serve(layered, again).requests.at(2).finish == 216 * ms + 250'000);
}

TEST_CASE("loads share the link, and writing through needs no eviction") {
  sim::ServingOptions options = scarce({tier("host", 100'000)});
  options.replicas.blocks = 6;
  options.tiers->write_down = sim::WriteDown::through;
  std::vector<traces::WorkloadRequest> requests = {named(0, 12, {1, 2, 3}), named(0.1, 12, {4, 5, 6}),
                                                   named(0.2, 24, {}), named(0.3, 12, {1, 2, 3}),
                                                   named(0.3, 12, {4, 5, 6})};
  const sim::ServingResult result = serve(options, requests);
  // 8000 bytes each, side by side: 17 ms; then a step of 8 tokens.
  CHECK(result.requests.at(3).scheduled == 317 * ms);
  CHECK(result.requests.at(4).scheduled == 317 * ms);
  CHECK(result.requests.at(4).finish == 335 * ms);
  CHECK(result.replicas.at(0).tiers.at(0).up_busy == 16 * ms);
  CHECK(result.replicas.at(0).tiers.at(0).down_bytes == 24'000);
}

TEST_CASE("what the host has no room for goes on to the disk, and climbs back") {
  std::vector<sim::TierOptions> tiers = {tier("host", 12'000, 0), tier("disk", 100'000, 0)};
  tiers[0].write_down = sim::WriteDown::back;
  const sim::ServingResult result =
      serve(scarce(tiers), {named(0, 12, {1, 2, 3}), named(0.1, 16, {}), named(0.2, 12, {4, 5, 6}), named(0.3, 16, {}),
                            named(0.4, 12, {4, 5, 6}), named(0.5, 12, {1, 2, 3})});
  const std::vector<sim::KvTierTotals>& totals = result.replicas.at(0).tiers;
  CHECK(totals.at(0).peak_bytes == 12'000);
  // The second prompt has pushed the first one down. Loaded, it passes both links, store and forward, and leaves copies
  // in the host.
  CHECK(result.requests.at(4).finish == 422 * ms);
  CHECK(result.requests.at(5).finish == 530 * ms);
  CHECK(totals.at(0).loaded_tokens == 8);
  CHECK(totals.at(1).loaded_tokens == 8);
  CHECK(totals.at(1).up_bytes == 8'000);
  CHECK(totals.at(0).up_bytes == 16'000);
}

TEST_CASE("the oldest request waits for loads that hold the memory it needs, and gets it") {
  sim::ServingOptions options = scarce({tier("host", 100'000, 200 * ms)});
  options.replicas.blocks = 8;
  const sim::ServingResult result =
      serve(options, {named(0, 12, {1, 2, 3}), named(0.1, 32, {}), request(0.4, 16, 8), named(0.401, 12, {1, 2, 3})});
  CHECK(result.completed == 4);
  // 16 tokens end at 426 ms. Then 3 blocks wait for the load, until 634 ms, and 5 hold 20 tokens, until 466 ms.
  CHECK(result.requests.at(2).first_token == 426 * ms);
  CHECK(result.requests.at(2).preemptions == 0);
  CHECK(result.requests.at(2).finish == 664 * ms);
  // The other gives way, and is back when there is room again; what it loaded is still there.
  CHECK(result.requests.at(3).preemptions == 1);
  CHECK(result.requests.at(3).loaded_tokens == 8);
  CHECK(result.requests.at(3).cached_tokens == 8);
  CHECK(result.requests.at(3).finish == 678 * ms);
}

TEST_CASE("setups: the GPU's link, a description, or a bandwidth; as often as there are GPUs") {
  models::Gpu gpu;
  gpu.name = "made-up";
  gpu.host_to_device = models::TransferRate{.latency_seconds = 1e-6, .bytes_per_second = 50e9};
  gpu.device_to_host = models::TransferRate{.bytes_per_second = 40e9};
  sim::TiersSetup setup;
  CHECK(!sim::kv_tiers(setup, gpu, {.gpus = 2, .layers = 32, .block_bytes = 1000}, false));
  const auto swaps = sim::kv_tiers(setup, gpu, {.gpus = 2, .layers = 32, .block_bytes = 1000}, true);
  REQUIRE(swaps);
  CHECK(swaps->write_down == sim::WriteDown::none);
  CHECK(swaps->tiers.at(0).capacity_bytes == std::int64_t{8} << 30U);
  CHECK(swaps->tiers.at(0).link.up.bytes_per_second == 100'000'000'000);
  CHECK(swaps->tiers.at(0).link.down.bytes_per_second == 80'000'000'000);
  CHECK(swaps->tiers.at(0).link.up.latency == 1000);

  setup.tiers = {{.name = "host", .gib_per_gpu = 1, .bytes_per_second_per_gpu = 1e9},
                 {.name = "disk", .gib_per_gpu = 2}};
  CHECK_THROWS_AS(sim::kv_tiers(setup, gpu, {.layers = 32, .block_bytes = 1000}, false), Error);
  setup.tiers[1].storage = models::Storage{.name = "slow", .read = {1e-3, 2e9, 0}, .write = {2e-3, 1e9, 0}};
  setup.layer_overlap = true;
  const auto both = sim::kv_tiers(setup, gpu, {.gpus = 2, .layers = 32, .block_bytes = 1000}, false);
  REQUIRE(both);
  CHECK(both->overlapped_layers == 32);
  CHECK(both->tiers.at(0).link.down.bytes_per_second == 2'000'000'000);
  CHECK(both->tiers.at(0).write_down == sim::WriteDown::back);
  CHECK(both->tiers.at(1).write_down == sim::WriteDown::none);
  CHECK(both->tiers.at(1).link.down.latency == 2 * ms);

  setup.chunk_tokens = 32;
  CHECK_THROWS_AS(sim::kv_tiers(setup, gpu, {.layers = 32, .block_bytes = 1000}, false), Error);
  setup.write_down = sim::WriteDown::through;
  CHECK(sim::kv_tiers(setup, gpu, {.layers = 32, .block_bytes = 1000}, false)->tiers.at(0).chunk_blocks == 2);
  setup.chunk_tokens = 24;
  CHECK_THROWS_AS(sim::kv_tiers(setup, gpu, {.layers = 32, .block_bytes = 1000}, false), Error);
  setup.chunk_tokens = 0;
  setup.policy = sim::parse_replacement("belady");
  CHECK_THROWS_AS(sim::kv_tiers(setup, gpu, {.layers = 32, .block_bytes = 1000}, false), Error);
}

TEST_CASE("a tier with room for less than one chunk is refused, and says how much one takes") {
  models::Gpu gpu;
  gpu.host_to_device = gpu.device_to_host = models::TransferRate{.bytes_per_second = 50e9};
  sim::TiersSetup setup;
  const double gib = 1024.0 * 1024 * 1024;
  const auto with = [&](double bytes) {
    setup.tiers = {{.name = "host", .gib_per_gpu = bytes / 2 / gib}};
    return sim::kv_tiers(setup, gpu, {.gpus = 2, .block_bytes = 1'000'000}, false);
  };
  CHECK(with(1'000'000)->tiers.at(0).capacity_bytes == 1'000'000);
  CHECK(with(0)->tiers.at(0).capacity_bytes == 0);
  CHECK_THROWS_WITH(with(999'990), Catch::Matchers::Contains("--host-memory") &&
                                       Catch::Matchers::Contains("16 tokens, 1000000 bytes") &&
                                       Catch::Matchers::Contains("0.0004657 GiB"));
  setup.chunk_tokens = 32;
  setup.write_down = sim::WriteDown::through;
  CHECK_THROWS_AS(with(1'999'990), Error);
  CHECK(with(2'000'000)->tiers.at(0).chunk_blocks == 2);
}

TEST_CASE("requests wait for room for what their policy keeps on the host") {
  sim::CacheProfile profile;
  profile.heads = {{0.5, 1}};
  profile.kv_heads = 1;
  profile.host_share = 0.5;  // of 8 tokens of a prompt: 4000 bytes
  sim::ServingOptions options = scarce({tier("host", 10'000)});
  options.replicas.blocks = 100;
  options.replicas.resident = sim::profiled_cache(profile, 0);
  options.sample_period = ms;
  const sim::ServingResult result =
      serve(options, {request(0, 8, 3), request(0, 8, 3), request(0, 8, 3), request(0, 24, 3)});
  // Two prompts of 8 tokens in one step: 26 ms; two more steps. The third begins when they have left.
  CHECK(result.requests.at(1).finish == 46 * ms);
  CHECK(result.requests.at(2).scheduled == 46 * ms);
  CHECK(result.requests.at(2).finish == 84 * ms);
  CHECK(result.requests.at(3).status == sim::RequestStatus::too_long);  // 12'000 bytes
  const sim::ReplicaTotals& totals = result.replicas.at(0);
  CHECK(totals.tiers.at(0).peak_bytes == 8000);
  CHECK(totals.tiers.at(0).down_bytes == 12'000);
  CHECK(totals.demoted_bytes == 12'000);
  CHECK(result.series.at(30).tier_bytes[0] == 8000);
  CHECK(result.series.at(60).tier_bytes[0] == 4000);
  CHECK(result.series.back().tier_bytes[0] == 0);
}
