#include "sim/serving/tier_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr double gib = 1024.0 * 1024 * 1024;

LinkOptions link_of(const TierSetup& tier, const models::Gpu& gpu, int gpus) {
  LinkOptions link;
  if (tier.storage) {
    link = link_options(*tier.storage);
  } else if (tier.name == "host" && !(tier.bytes_per_second_per_gpu && !gpu.host_to_device)) {
    link = link_options(gpu);
  } else if (!tier.bytes_per_second_per_gpu) {
    throw Error(ErrorCode::missing_data,
                fmt::format("how fast is it? Give --{0}-storage or --{0}-bandwidth", tier.name),
                {.parameter = option_of(tier.name)});
  }
  if (tier.bytes_per_second_per_gpu) {
    link.up.bytes_per_second = link.down.bytes_per_second = std::llround(*tier.bytes_per_second_per_gpu);
    link.combined_bytes_per_second = 0;
  }
  for (LinkRate* rate : {&link.up, &link.down}) rate->bytes_per_second *= gpus;
  link.combined_bytes_per_second *= gpus;
  return link;
}

/// A tier that holds nothing would stay empty without a word.
void require_room_for_a_chunk(const TierSetup& tier, const TierOptions& options, const TieredReplica& replica) {
  const std::int64_t chunk = options.chunk_blocks * replica.block_bytes;
  if (tier.gib_per_gpu == 0 || options.capacity_bytes >= chunk) return;
  throw Error(ErrorCode::invalid_argument,
              fmt::format("{} bytes are less than one chunk of {} tokens, {} bytes: expected 0 or at least {:.4g} GiB "
                          "per GPU",
                          options.capacity_bytes, options.chunk_blocks * replica.block_tokens, chunk,
                          static_cast<double>(chunk) / gib / replica.gpus),
              {.parameter = option_of(tier.name), .value = fmt::format("{}", tier.gib_per_gpu)});
}

}  // namespace

std::string option_of(const std::string& tier) { return tier == "host" ? "--host-memory" : "--" + tier; }

std::optional<KvTiers> kv_tiers(const TiersSetup& setup, const models::Gpu& gpu, const TieredReplica& replica,
                                bool swaps) {
  if (setup.tiers.empty() && !swaps) return std::nullopt;
  std::vector<TierSetup> given = setup.tiers;
  // A tier without room would keep everything from those below it.
  const auto empty = [](const TierSetup& tier) { return tier.gib_per_gpu == 0; };
  if (!std::all_of(given.begin(), given.end(), empty)) std::erase_if(given, empty);
  KvTiers made;
  made.rule = setup.rule;
  made.overlapped_layers = setup.layer_overlap ? replica.layers : 1;
  made.write_down = setup.write_down;
  if (given.empty()) {
    given.push_back({.name = "host", .gib_per_gpu = default_swap_gib});
    made.write_down = WriteDown::none;
  }
  if (setup.chunk_tokens % replica.block_tokens != 0) {
    throw Error(ErrorCode::invalid_argument, fmt::format("expected whole blocks of {} tokens", replica.block_tokens),
                {.parameter = "--tier-chunk", .value = fmt::format("{}", setup.chunk_tokens)});
  }
  for (const TierSetup& tier : given) {
    TierOptions options;
    options.name = tier.name;
    options.capacity_bytes = std::llround(tier.gib_per_gpu * gib * replica.gpus);
    options.chunk_blocks = std::max<std::int64_t>(1, setup.chunk_tokens / replica.block_tokens);
    options.replacement = setup.policy;
    options.link = link_of(tier, gpu, replica.gpus);
    require_room_for_a_chunk(tier, options, replica);
    options.write_down = made.tiers.size() + 1 < given.size() ? setup.write_down : WriteDown::none;
    made.tiers.push_back(std::move(options));
  }
  check_tiers(made);
  return made;
}

}  // namespace evictsim::sim
