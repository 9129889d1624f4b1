#pragma once
/// \file
/// Documents of a prompt that were recorded alone, for reuse behind other text: the packets of KV Packet
/// (arXiv 2604.13226). Format: docs/trace-format.md.

#include <array>
#include <cstdint>
#include <vector>

#include "traces/header.h"

namespace evictsim::traces {

/// Which recording: documents between boundary tokens (header and trailer), or bare.
enum class PacketSet { wrapped, bare };
inline constexpr std::array packet_sets = {PacketSet::wrapped, PacketSet::bare};
/// The stored spellings, "wrapped" and "bare".
const char* to_string(PacketSet set) noexcept;

/// One document read alone, at positions 0, 1, 2, ...: `header` boundary rows, the document's, `trailer` boundary rows.
struct Packet {
  Span document;  ///< its token rows in the sequence
  std::int32_t header = 0;
  std::int32_t trailer = 0;

  [[nodiscard]] std::int32_t rows() const { return header + document.last - document.first + trailer; }
  bool operator==(const Packet&) const = default;
};

/// The packets of a sequence in the order of their documents.
using Packets = std::vector<Packet>;

/// Rows of all packets together.
std::int32_t total_rows(const Packets& packets);

/// Tensors of one layer, laid out head by head. Tp rows of all packets, one packet behind the other; Ta rows behind the
/// last document.
struct PacketTensors {
  std::vector<float> k, v;              ///< [Hkv, Tp, d]; k after RoPE at the positions inside its packet
  std::vector<float> q;                 ///< [Hq, Tp, d]; empty when not recorded
  std::vector<float> after_k, after_v;  ///< [Hkv, Ta, d] of a pass that read the packets; empty when not recorded
  std::vector<float> after_q;           ///< [Hq, Ta, d] of the same
};

/// What a layer holds of one set.
struct PacketContents {
  bool rows = false;     ///< k, v
  bool queries = false;  ///< q
  bool after = false;    ///< after_k, after_v, after_q
};

}  // namespace evictsim::traces
