#pragma once
/// \file
/// Writer of trace files. Rows are appended as they come; nothing is visible under the final name before
/// `seal()` has written, synced and renamed it.

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "traces/header.h"
#include "traces/packets.h"
#include "traces/reader.h"

namespace evictsim::traces {

struct WriterOptions {
  TensorType tensor_type = TensorType::float16;  ///< k, v, q, x and weights are stored so; rounded to nearest even
  bool compress = true;                          ///< shuffle + deflate 1
};

/// Rows of one layer as the format stores them (token-major).
struct PacketRows {
  std::span<const float> k, v;  ///< [rows, Hkv, d]
  std::span<const float> q;     ///< [rows, Hq, d]; may be empty for the packets' rows, always or never
};

/// Writes one trace file. Not thread-safe. Destroying it without `seal()` removes the temporary file.
class Writer {
 public:
  /// Creates `path` + a temporary suffix beside it. Throws Error (io_failure, permission_denied, invalid_argument).
  Writer(const std::filesystem::path& path, const Header& header, const WriterOptions& options = {});
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  ~Writer();

  /// Weights of one captured layer (index in the model), float32 as in the format's shapes.
  void write_weight(int layer, LayerWeight weight, std::span<const float> values);

  /// Unembedding [vocab, D] or final norm [D], float32.
  void write_model_tensor(ModelTensor tensor, std::span<const float> values);

  /// Starts a sequence; `info.name` may be empty (the next number is taken). Rows are appended next.
  void begin_sequence(const SequenceInfo& info);
  /// Appends rows of one layer: k, v [rows, Hkv, d] as the format stores them (token-major).
  void append_kv(int layer, std::span<const float> k, std::span<const float> v);
  /// Appends queries of given token rows: q [token_rows, Hq, d], token_rows ascending over all calls.
  void append_q(int layer, std::span<const std::int32_t> token_rows, std::span<const float> q);
  /// Appends residual-stream rows x [rows, D].
  void append_x(int layer, std::span<const float> x);
  /// A whole per-token channel in the format's shape (token_ids as float values of whole numbers).
  void write_channel(Channel channel, std::span<const float> values);
  /// Rows of a second pass; their queries follow, q [rows, Hq, d] for every layer that has them.
  void write_second_pass(const SecondPass& rows);
  void append_second_pass_q(int layer, std::span<const float> q);
  /// Optional, after the queries of that layer: keys of the same rows after RoPE, [rows, Hkv, d].
  void append_second_pass_k(int layer, std::span<const float> k);
  /// Documents recorded alone; the rows of their packets follow in order for every layer that has them, then, optional,
  /// the rows behind the last document of a pass that read these packets.
  void write_packets(PacketSet set, const Packets& packets);
  void append_packet_rows(PacketSet set, int layer, const PacketRows& rows);
  void append_rows_after_packets(PacketSet set, int layer, const PacketRows& rows);
  /// Ends a sequence of which more is known than at its beginning (a capture learns the length last): `info` replaces
  /// what `begin_sequence` was given, except for the name.
  void end_sequence(const SequenceInfo& info);
  /// Ends the sequence: lengths are checked against `info`. Throws Error(wrong_shape) naming the dataset.
  void end_sequence();

  /// Flushes, syncs, and renames to the final name; syncs the directory. No call is allowed after it.
  void seal();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::traces
