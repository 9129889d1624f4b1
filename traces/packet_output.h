#pragma once
/// \file
/// Packets on their way into a trace file. Internal to traces/; its callers hold the lock around HDF5.

#include <array>
#include <map>
#include <memory>
#include <optional>

#include "traces/packets.h"
#include "traces/row_stream.h"
#include "traces/writer.h"

namespace evictsim::traces {

/// The packets of the sequence that is being written.
class PacketOutput {
 public:
  /// Throws Error(invalid_argument) when the set was begun before.
  void begin(const hdf5::Node& sequence, PacketSet set, const Packets& packets);
  /// `names` of the datasets for k, v and q. Throws Error(invalid_argument) when the set was not begun.
  void append(PacketSet set, int layer, const PacketRows& rows, const std::array<const char*, 3>& names,
              const Header& header, const WriterOptions& options);
  /// Writes the layouts and checks rows and rules against the sequence as it ended; ready for the next one then.
  void finish(const SequenceInfo& info, const Header& header);
  void close();

 private:
  struct Set {
    Packets packets;
    hdf5::Node group;
    std::map<int, hdf5::Node> layers;
    std::map<std::pair<int, std::string>, std::unique_ptr<RowStream>> streams;
  };
  hdf5::Node group_;
  std::array<std::optional<Set>, packet_sets.size()> sets_;
};

}  // namespace evictsim::traces
