#pragma once
/// \file
/// Turns the rows of forward steps into a trace file: which rows of q are kept, the side channels, and the writer.
/// Shared by every front end.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "traces/capture/side_channels.h"
#include "traces/capture/step_rows.h"
#include "traces/header.h"
#include "traces/writer.h"

namespace evictsim::traces::capture {

/// Which token rows keep their query: all, or the last `window` rows of the prompt and all decode rows.
struct QueryRows {
  bool all = true;
  std::int32_t window = 64;
  std::vector<int> full_layers;  ///< captured layers that keep all rows even so

  [[nodiscard]] bool keeps(int layer, std::int32_t row, std::int32_t prompt_length) const;
};

/// Reads "all" or "window:64+decode". Throws Error(invalid_argument).
QueryRows parse_query_rows(std::string_view text);

/// Everything about the recording that is known before its first step.
struct Recording {
  Header header;
  SequenceInfo sequence;
  std::vector<std::int32_t> token_ids;  ///< [length]
  QueryRows query_rows;
  bool hidden = false;          ///< record x
  bool after_attention = true;  ///< steps carry `after_attention`
  WriterOptions writer;
};

/// Writes one sequence. Weights first, then steps in order, then finish.
class TraceRecorder {
 public:
  TraceRecorder(const std::filesystem::path& path, Recording recording);

  void add_weight(int layer, LayerWeight weight, std::span<const float> values);
  /// Throws Error(invalid_value) on NaN or infinity, or when a value does not fit into float16.
  void add(const StepRows& step);
  /// Rows of a second pass over the context: what they are, after the first `add`; then their steps in order.
  void begin_second_pass(const SecondPass& rows);
  void add_second_pass(const StepRows& step);
  /// Documents recorded alone: what they are, after the first `add`; then the steps of their rows in order, and those
  /// of the rows behind the last document in a pass that read the packets.
  void begin_packets(PacketSet set, const Packets& packets);
  void add_packet_rows(PacketSet set, const StepRows& step);
  void add_rows_after_packets(PacketSet set, const StepRows& step);
  /// Writes the channels and seals the file.
  void finish();

  [[nodiscard]] const SideChannels& channels() const { return channels_; }

 private:
  void require_storable(const LayerRows& rows, int layer) const;
  void require_storable(std::span<const float> values, const char* name, int layer) const;

  Recording recording_;
  SideChannels channels_;
  Writer writer_;
  bool started_ = false;
};

}  // namespace evictsim::traces::capture
