#pragma once
/// \file
/// Small random traces held in memory, and the same as files.

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/geometry.h"
#include "models/rope.h"
#include "sim/replay/layer_data.h"
#include "traces/header.h"
#include "traces/packets.h"
#include "traces/reader.h"
#include "traces/writer.h"

namespace evictsim::test {

/// What a random trace looks like.
struct TraceShape {
  int layers = 2;
  int query_heads = 4;
  int kv_heads = 2;
  int head_dim = 8;
  int hidden_size = 24;
  std::int32_t prompt_length = 24;
  std::int32_t length = 32;
  int sequences = 1;
  double softcap = 0;
  /// Standard deviation of queries; logits have this one times that of keys (1).
  double query_spread = 2;
  std::vector<int> sliding_window = {};  ///< per layer; empty: all full
  int position_step = 1;                 ///< distance of neighbouring positions; 1 = none left out
  bool with_w_o = true;
  bool with_output_norm = false;
  /// x and its norm, every per-token channel, a second pass, a question, documents and their packets.
  bool with_side = true;
  std::vector<std::int32_t> q_rows = {};  ///< rows with a query in every layer; empty: all
  std::vector<traces::Span> evidence = {};
  std::uint64_t seed = 1;
};

/// A whole trace.
struct MemoryTrace {
  /// Documents recorded alone.
  struct PacketData {
    traces::Packets layout;                     ///< empty: not in the trace
    std::vector<traces::PacketTensors> layers;  ///< [captured layer]
  };
  struct Sequence {
    traces::SequenceInfo info;
    std::vector<traces::LayerTensors> layers;  ///< [captured layer]
    std::vector<std::vector<float>> x;         ///< [captured layer] [T, D]; empty: none
    std::map<traces::Channel, std::vector<float>> channels;
    traces::SecondPass second_pass;
    std::vector<std::vector<float>> second_pass_q;               ///< [captured layer] [Ts, Hq, d]; empty: none
    std::array<PacketData, traces::packet_sets.size()> packets;  ///< by PacketSet
  };
  traces::Header header;
  std::vector<Sequence> sequences;
  std::vector<std::vector<float>> w_o;          ///< [captured layer] [D, Hq*d]; empty: none
  std::vector<std::vector<float>> output_norm;  ///< [captured layer] [D]; empty: none
  std::vector<std::vector<float>> input_norm;   ///< [captured layer] [D]; empty: none

  [[nodiscard]] float& key(int layer, int kv_head, std::int32_t row, int component);
  [[nodiscard]] float& value(int layer, int kv_head, std::int32_t row, int component);
  /// Of sequence 0, for layers with a query at every row.
  [[nodiscard]] float& query(int layer, int query_head, std::int32_t row, int component);
};

/// The same shape gives the same numbers everywhere.
MemoryTrace random_trace(const TraceShape& shape);

void write_trace(const MemoryTrace& trace, const std::filesystem::path& path,
                 traces::TensorType type = traces::TensorType::float32);
/// Writes `trace` into the test's scratch folder and opens it; the file is unlinked at once, so nothing is left behind.
traces::Reader stored(const MemoryTrace& trace, traces::TensorType type = traces::TensorType::float32);
/// As `stored`, as the list that a replay takes.
std::vector<traces::Reader> stored_list(const MemoryTrace& trace,
                                        traces::TensorType type = traces::TensorType::float32);

/// One layer of one sequence as the replay sees it, with all that it refers to.
class LoadedLayer {
 public:
  explicit LoadedLayer(const MemoryTrace& trace, std::size_t captured_layer = 0, std::size_t sequence = 0);
  LoadedLayer(const LoadedLayer&) = delete;
  LoadedLayer& operator=(const LoadedLayer&) = delete;
  [[nodiscard]] const sim::LayerData& data() const { return data_; }

 private:
  models::Geometry geometry_;
  models::Rope rope_;
  traces::SequenceInfo info_;
  sim::LayerData data_;
};

}  // namespace evictsim::test
