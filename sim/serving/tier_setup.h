#pragma once
/// \file
/// From what a user says about host memory, disks and remote stores to the tiers of a replica.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/gpu.h"
#include "models/storage.h"
#include "sim/serving/kv_tiers.h"

namespace evictsim::sim {

/// One tier. What it has per GPU, a replica of several GPUs has as often: each uses its own share.
struct TierSetup {
  std::string name;  ///< "host", "disk", "remote"
  double gib_per_gpu = 0;
  std::optional<models::Storage> storage;          ///< what it is; the host has the GPU's own link without
  std::optional<double> bytes_per_second_per_gpu;  ///< both ways, instead of what the description says
};

struct TiersSetup {
  std::vector<TierSetup> tiers;  ///< fastest first; none: requests are swapped to 4 GiB of host memory per GPU
  Replacement policy = parse_replacement("lru");
  WriteDown write_down = WriteDown::back;  ///< from the replica, and from tier to tier
  LoadRule rule = LoadRule::earlier;
  bool layer_overlap = false;
  std::int64_t chunk_tokens = 0;  ///< 0: a block
};

inline constexpr double default_swap_gib = 4;

/// The replica that has them.
struct TieredReplica {
  int gpus = 1;
  int layers = 1;  ///< of the model
  int block_tokens = 16;
  std::int64_t block_bytes = 0;
};

/// The option that says how much of a tier there is, for errors.
std::string option_of(const std::string& tier);

/// None if there is neither a tier nor a swap. Throws Error: missing_data for a rate that neither the GPU's description
/// nor the setup gives; invalid_argument for chunks that are no whole blocks, for a tier with room for less than one
/// chunk (none at all is fine), and for what check_tiers() refuses.
std::optional<KvTiers> kv_tiers(const TiersSetup& setup, const models::Gpu& gpu, const TieredReplica& replica,
                                bool swaps);

}  // namespace evictsim::sim
