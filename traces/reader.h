#pragma once
/// \file
/// Lazy reader of trace files: opening reads the header and the sequences' attributes, tensors are read on
/// demand, one layer of one sequence at a time. Format: docs/trace-format.md.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "traces/header.h"
#include "traces/packets.h"

namespace evictsim::traces {

/// Per-token channels of a sequence, by the dataset's name in the format.
enum class Channel {
  token_ids,
  entropy,
  entropy_top,
  logprob,
  step_norm,
  cos_final,
  cos_attention,
  residual_norm,
  final_norm_input
};
const char* to_string(Channel channel) noexcept;

/// Weights recorded once per layer under /model/layer_XXX.
enum class LayerWeight { w_o, input_norm, output_norm };
const char* to_string(LayerWeight weight) noexcept;

/// Weights recorded once per model: unembedding [vocab, D], final_norm [D].
enum class ModelTensor { unembedding, final_norm };
const char* to_string(ModelTensor tensor) noexcept;

/// One open trace file. Movable, not copyable. Member functions may be called from several threads: HDF5 calls
/// are serialised by one lock of this library.
class Reader {
 public:
  /// Opens and checks everything but tensor contents. Throws Error naming file, dataset and rule.
  explicit Reader(const std::filesystem::path& path);
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  [[nodiscard]] const std::filesystem::path& path() const;
  [[nodiscard]] const Header& header() const;
  [[nodiscard]] const std::vector<SequenceInfo>& sequences() const;

  /// Token rows for which layer `layer` (index in the model) has queries; ascending.
  [[nodiscard]] std::vector<std::int32_t> query_rows(std::size_t sequence, int layer) const;
  /// k, v and q of one layer. Throws Error(invalid_value) on NaN or infinity.
  [[nodiscard]] LayerTensors read_layer(std::size_t sequence, int layer) const;
  /// The same into `tensors`, whose memory is used again: no allocation when the shapes agree.
  void read_layer(std::size_t sequence, int layer, LayerTensors& tensors) const;
  /// x [T, D] of one layer, the residual stream entering it; nullopt when not recorded.
  [[nodiscard]] std::optional<Tensor> read_hidden(std::size_t sequence, int layer) const;
  /// A per-token channel with the shape of the format; nullopt when absent. token_ids come as float.
  [[nodiscard]] std::optional<Tensor> read_channel(std::size_t sequence, Channel channel) const;
  [[nodiscard]] bool has_channel(std::size_t sequence, Channel channel) const;
  /// w_o [D, Hq*d], norms [D]; nullopt when absent.
  [[nodiscard]] std::optional<Tensor> read_weight(int layer, LayerWeight weight) const;
  [[nodiscard]] bool has_weight(int layer, LayerWeight weight) const;
  [[nodiscard]] bool has_hidden(std::size_t sequence, int layer) const;
  [[nodiscard]] std::optional<Tensor> read_model_tensor(ModelTensor tensor) const;
  [[nodiscard]] bool has_model_tensor(ModelTensor tensor) const;
  /// Rows of a second forward pass; nullopt when the sequence has none.
  [[nodiscard]] std::optional<SecondPass> read_second_pass(std::size_t sequence) const;
  /// Queries of the second pass [Hq, Ts, d], head by head; nullopt when that layer has none.
  [[nodiscard]] std::optional<Tensor> read_second_pass_queries(std::size_t sequence, int layer) const;
  /// Keys of the second pass's own rows [Hkv, Ts, d]; nullopt when that layer has none.
  [[nodiscard]] std::optional<Tensor> read_second_pass_keys(std::size_t sequence, int layer) const;
  /// Documents recorded alone; nullopt when the sequence has no such set.
  [[nodiscard]] std::optional<Packets> read_packets(std::size_t sequence, PacketSet set) const;
  /// What a layer holds of a set; nothing where the sequence has none.
  [[nodiscard]] PacketContents packet_contents(std::size_t sequence, int layer, PacketSet set) const;
  /// Tensors of a set, as far as the layer holds them. Throws Error(invalid_value) on NaN or infinity.
  [[nodiscard]] PacketTensors read_packet_layer(std::size_t sequence, int layer, PacketSet set) const;
  /// How k of that layer is stored.
  [[nodiscard]] TensorType stored_type(std::size_t sequence, int layer) const;
  /// Lower-case hexadecimal checksum of the file's bytes (see traces/checksum.h); reads the file once.
  [[nodiscard]] std::string checksum() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Opens every trace that `paths` name: files, and directories with a manifest (its shards in order, each checked
/// against the manifest). Throws Error.
std::vector<Reader> open_traces(const std::vector<std::filesystem::path>& paths);

}  // namespace evictsim::traces
