#pragma once
/// \file
/// How packets lie in a trace file: reading their layout with its rules, and writing it. Internal to traces/.

#include <string>
#include <vector>

#include "traces/hdf5_handle.h"
#include "traces/packets.h"

namespace evictsim::traces {

/// Boundary rows that a packet may have on one side.
inline constexpr std::int32_t most_wrapper_rows = 65536;

/// The first rule of the format that `packets` break in a sequence, as "must ..."; empty when none.
std::string broken_rule(const Packets& packets, const SequenceInfo& info);

/// Reads the group of one set; `contents` [captured layer] says what layers hold. Throws the first broken rule.
Packets load_packets(const hdf5::Node& group, const Header& header, const SequenceInfo& info,
                     std::vector<PacketContents>& contents);
/// Writes documents and wrappers into the group of one set.
void write_packet_layout(const hdf5::Node& group, const Packets& packets);

}  // namespace evictsim::traces
