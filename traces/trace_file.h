#pragma once
/// \file
/// The structure of an opened trace, shared by reader, verifier and slicer. Internal to traces/.

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "traces/error.h"
#include "traces/hdf5_handle.h"
#include "traces/header.h"
#include "traces/packets.h"
#include "traces/reader.h"

namespace evictsim::traces {

/// Takes one broken rule: the reader's throws it, the verifier's collects it.
using Report = std::function<void(const Error&)>;

/// Runs `check`; an Error it throws goes to `report`. True when there was none.
template <typename Check>
bool attempt(const Report& report, Check&& check) {
  try {
    check();
    return true;
  } catch (const Error& error) {
    report(error);
    return false;
  }
}

inline constexpr std::array all_channels = {Channel::token_ids,     Channel::entropy,       Channel::entropy_top,
                                            Channel::logprob,       Channel::step_norm,     Channel::cos_final,
                                            Channel::cos_attention, Channel::residual_norm, Channel::final_norm_input};
inline constexpr std::array all_layer_weights = {LayerWeight::w_o, LayerWeight::input_norm, LayerWeight::output_norm};

/// One captured layer of one sequence.
struct LayerEntry {
  bool valid = false;  ///< every rule held
  TensorType type = TensorType::float32;
  bool has_hidden = false;
  bool has_second_pass = false;
  bool has_second_pass_keys = false;
  std::optional<std::vector<std::int32_t>> query_rows;  ///< absent: every row
};

/// One set of packets of a sequence.
struct PacketEntry {
  std::optional<Packets> layout;       ///< absent: not recorded
  std::vector<PacketContents> layers;  ///< [captured layer]
};

struct SequenceEntry {
  bool valid = false;  ///< attributes are usable
  std::vector<LayerEntry> layers;
  std::array<bool, all_channels.size()> channels{};
  std::optional<SecondPass> second_pass;
  std::array<PacketEntry, packet_sets.size()> packets;  ///< by PacketSet
};

struct TraceFile {
  std::filesystem::path path;
  hdf5::Node root;
  hdf5::Node weights;  ///< where layer_XXX, unembedding and final_norm lie: /model, or a model record
  Header header;
  std::vector<SequenceInfo> sequences;
  std::vector<SequenceEntry> entries;

  /// Place of a layer among the captured ones. Throws Error(invalid_argument).
  [[nodiscard]] std::size_t layer_index(int layer) const;
};

/// Extents of a channel and their names, for a sequence of `length` tokens.
std::vector<std::size_t> channel_shape(Channel channel, const Header& header, std::size_t length);
const char* channel_axes(Channel channel);
std::vector<std::size_t> weight_shape(LayerWeight weight, const Header& header);

/// Throws the first broken rule among those on the header's values alone.
void require_valid(const Header& header, const std::string& file);

/// Opens the file and checks every rule of the format that needs no tensor contents. False when the header is too
/// broken to look further.
bool load(TraceFile& trace, const std::filesystem::path& path, const Report& report);
/// The two steps of load().
bool load_header(TraceFile& trace, const Report& report);
void load_sequences(TraceFile& trace, const Report& report);

/// Reads a [rows, heads, width] tensor into [heads, rows, width] float32. Throws invalid_value at NaN or infinity.
/// Takes the lock itself, and only while HDF5 works.
void read_head_major(const hdf5::Node& dataset, std::vector<float>& values);
/// Reads any float dataset as it lies.
Tensor read_tensor(const hdf5::Node& dataset);

}  // namespace evictsim::traces
