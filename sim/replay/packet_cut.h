#pragma once
/// \file
/// Documents recorded alone, made ready before a request uses them: each packet is cut by itself.

#include <cstdint>
#include <vector>

#include "policies/budget.h"
#include "policies/packet_layer.h"
#include "sim/replay/layer_cache.h"
#include "sim/replay/layer_data.h"

namespace evictsim::sim {

/// [query head] rows of all packets that stay, ascending. A share of the prompt as budget is a share of each packet's
/// rows, int(rows * share) and at least 1; a budget of B entries is the share B / prompt length.
std::vector<std::vector<std::int32_t>> cut_packets(const LayerData& layer, const policies::PacketLayer& packets,
                                                   const policies::PacketIngest& ingest, const policies::Budget& budget,
                                                   RandomKey key);

}  // namespace evictsim::sim
