#pragma once
/// \file
/// Random serving systems, small and short of memory, and workloads for them.

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/serving_double.h"

namespace evictsim::tests {

/// Reads the last `window` entries in half of the layers; drops half of the prompt when it is done; scores every step.
struct HalvingCache final : sim::ResidentCache {
  std::int64_t window = 64;

  [[nodiscard]] std::int64_t units_per_entry() const override { return 2; }
  [[nodiscard]] sim::ReadSpan reads(std::int64_t prompt, std::int64_t context) const override {
    const std::int64_t kept = context - prompt / 2;
    if (kept < window) return {2 * kept, 2, 1'000'003, prompt / 2 + window};
    return {kept + window, 1, 2'000'003, std::int64_t{1} << 40U};
  }
  [[nodiscard]] std::int64_t blocks(std::int64_t prompt, std::int64_t context, int block_tokens) const override {
    const std::int64_t kept = context <= prompt ? context : context - prompt / 2;
    return (kept + block_tokens - 1) / block_tokens;
  }
  [[nodiscard]] sim::ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    return {cached + tokens, cached * tokens + tokens * (tokens + 1) / 2};
  }
};

class RandomServing {
 public:
  explicit RandomServing(std::uint32_t seed) : random_(seed) {}

  sim::ServingOptions options() {
    sim::ServingOptions options;
    options.replicas = group(chance(3) ? number(2, 4) : 1);
    if (chance(4)) {
      options.disaggregation = sim::Disaggregation{group(number(1, 3)), {number(0, 1000), 1e6 * number(1, 1000)}};
    } else if (chance(5)) {
      options.batching = sim::Batching::whole_batch;
      options.batch_wait = number(0, 50) * 1'000'000;
    } else if (chance(6)) {
      options.replicas.pipeline_stages = number(2, 4);
    }
    if (chance(3)) {
      options.replicas.resident = std::make_shared<HalvingCache>();
      if (options.disaggregation && chance(2)) options.disaggregation->decode.resident = options.replicas.resident;
    }
    options.chunked_prefill = !chance(4);
    options.prefix_cache = !chance(3);
    options.reserve_full_prompt = chance(2);
    options.kv_bytes_per_token = 1000;
    if (chance(2)) options.tiers = tiers(options);
    if (options.tiers && chance(2)) options.preemption = sim::Preemption::swap;
    options.routing = static_cast<sim::Routing>(number(0, 2));
    options.routing_imbalance = number(0, 4);
    options.sample_period = number(1, 40) * 1'000'000;
    options.most_samples = static_cast<std::size_t>(number(2, 50));
    if (chance(4)) options.limit = number(1, 900) * 1'000'000;
    return options;
  }

  /// Bursts, pauses and requests on the same instant as others; prompts with shared beginnings; some that never fit.
  RequestLists requests() {
    std::vector<traces::WorkloadRequest> requests, follow_ups;
    const int count = number(1, 60);
    const int longest = chance(2) ? 40 : 300;
    double arrival = 0;
    for (int i = 0; i < count; ++i) {
      if (!chance(3)) arrival += 0.001 * number(0, chance(5) ? 300 : 20);
      requests.push_back(made(arrival, longest));
    }
    for (int i = number(0, count); i > 0; --i)
      follow_ups.push_back(made(chance(2) ? 0 : 0.001 * number(0, 50), longest));
    return {std::move(requests), std::move(follow_ups)};
  }

 private:
  int number(int least, int most) { return std::uniform_int_distribution<int>(least, most)(random_); }
  bool chance(int one_in) { return number(1, one_in) == 1; }

  sim::ReplicaGroup group(int replicas) {
    auto cost = std::make_shared<LinearCost>();
    // Round times make events coincide, odd ones leave rests of nanoseconds.
    cost->step = chance(2) ? femtoseconds_per_millisecond : 1'234'567'890'123;
    cost->per_sequence = chance(2) ? 0 : 10'000'000'001;
    cost->per_prefill_token = chance(2) ? 0 : 1'000'000'000;
    cost->per_pair = chance(2) ? 0 : 1'000'007;
    cost->per_entry = chance(3) ? 0 : (chance(2) ? 1'000'000'000 : 77'777'777);
    cost->request = chance(2) ? 0 : 3'000'000'500'000;
    sim::ReplicaGroup made;
    made.step_cost = cost;
    made.replicas = replicas;
    made.block_tokens = chance(3) ? 1 : number(2, 16);
    made.blocks = number(150, 900) / made.block_tokens;
    made.token_budget = chance(2) ? number(4, 64) : 512;
    made.max_sequences = chance(2) ? number(1, 6) : 64;
    return made;
  }

  sim::LinkRate rate() {
    constexpr std::array<std::int64_t, 4> rates = {200'000, 1'000'000, 20'000'000, 1'000'000'000};
    return {rates[static_cast<std::size_t>(number(0, 3))], chance(2) ? 0 : number(1, 3'000'000),
            chance(3) ? number(1, 100'000) : 0};
  }

  /// Some too small for anything, some slower than computing.
  sim::KvTiers tiers(const sim::ServingOptions& options) {
    constexpr std::array policies = {"lru", "fifo", "sieve", "arc", "s3fifo", "2q", "lfu", "clock", "gdsf"};
    sim::KvTiers made;
    const bool whole_batches = options.batching == sim::Batching::whole_batch;
    made.write_down = whole_batches ? sim::WriteDown::none : static_cast<sim::WriteDown>(number(0, 2));
    made.rule = chance(2) ? sim::LoadRule::load : static_cast<sim::LoadRule>(number(0, 2));
    if (options.replicas.pipeline_stages == 1 && chance(3)) made.overlapped_layers = number(2, 32);
    const int count = number(1, 3);
    const bool through = made.write_down == sim::WriteDown::through && chance(2);
    for (int i = 0; i < count; ++i) {
      sim::TierOptions tier;
      tier.name = "tier " + std::to_string(i);
      tier.capacity_bytes = 1000LL * options.replicas.block_tokens * number(0, chance(3) ? 4 : 150);
      tier.chunk_blocks = through ? number(1, 3) : 1;
      tier.replacement =
          sim::parse_replacement(policies[static_cast<std::size_t>(number(0, static_cast<int>(policies.size()) - 1))]);
      tier.link = {rate(), rate(), chance(3) ? 10'000'000 : 0};
      tier.piece_bytes = chance(2) ? 0 : 700;
      if (i + 1 < count) {
        tier.write_down = through ? sim::WriteDown::through : static_cast<sim::WriteDown>(number(0, 2));
      }
      made.tiers.push_back(tier);
    }
    return made;
  }

  traces::WorkloadRequest made(double arrival, int longest) {
    traces::WorkloadRequest made = request(arrival, number(1, longest), number(1, longest));
    if (chance(30)) made.prompt_tokens = 5000;
    if (chance(3)) return made;
    made.prefix_block_tokens = chance(2) ? 8 : number(1, 16);
    const int known = number(1, 2 * longest / made.prefix_block_tokens + 1);
    const int family = number(1, 3);
    const int shared = number(0, known);
    for (int i = 0; i < known; ++i) {
      const auto name = static_cast<std::uint64_t>(i < shared ? family : 1000 + serial_) << 32U;
      made.prefix_blocks.push_back(name + static_cast<std::uint64_t>(made.prefix_block_tokens * 1000 + i));
    }
    ++serial_;
    return made;
  }

  std::mt19937 random_;
  int serial_ = 0;
};

}  // namespace evictsim::tests
