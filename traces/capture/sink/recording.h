#pragma once
/// \file
/// One request on its way into a shard: rows are gathered until they fill chunks, which go to the writers.

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/sink/capture_options.h"
#include "traces/capture/sink/chunk_stream.h"
#include "traces/capture/sink/pass_recording.h"
#include "traces/capture/sink/token_channels.h"
#include "traces/packets.h"

namespace evictsim::traces::capture {

/// What is known of a request beside its rows.
struct RequestDescription {
  SequenceInfo info;  ///< task, text and spans
  std::optional<SecondPass> second_pass;
  std::array<std::optional<Packets>, packet_sets.size()> packets;  ///< by PacketSet

  /// The rows of that pass, absent: as many as the sequence has. Null: the pass was not announced.
  [[nodiscard]] std::optional<std::optional<std::size_t>> rows_of(Pass pass) const;
};

/// Not thread-safe. A row that is lost ends the recording there: keys and values of every token are needed, so what
/// follows a hole is of no use. The sequence is cut before the hole when that lies behind the prompt, else there is
/// none.
class RequestRecording {
 public:
  RequestRecording(std::string request_id, RequestDescription description, const ModelRecord& model,
                   const CaptureOptions& options);

  /// The bytes that the unfinished chunks of one request can take.
  static std::size_t most_pending_bytes(const RequestDescription& description, const ModelRecord& model,
                                        const CaptureOptions& options);

  [[nodiscard]] const std::string& request_id() const { return info_.request_id.value(); }
  void set_prompt_length(std::int32_t length) { info_.prompt_length = length; }
  [[nodiscard]] std::int32_t prompt_length() const { return info_.prompt_length; }
  [[nodiscard]] std::span<const std::int32_t> token_ids() const { return token_ids_; }
  void add_tokens(std::span<const std::int32_t> tokens);

  /// Rows of one tensor of a layer; `tokens` are their token rows, ascending, `bytes` are of `type`. Rows that cannot
  /// be stored, come after a missing one, or come while the chunk before them cannot be given away are lost. Returns
  /// false when a value could not be stored.
  bool append(std::size_t place, LayerTensor tensor, std::span<const std::int32_t> tokens,
              std::span<const std::byte> bytes, TensorType type, const TakeChunk& take);
  /// The same of a pass beside the sequence, `rows` ascending without gaps.
  bool append(Pass pass, std::size_t place, LayerTensor tensor, std::span<const std::int32_t> rows,
              std::span<const std::byte> bytes, TensorType type, const TakeChunk& take);
  [[nodiscard]] TokenChannels& channels() { return channels_; }

  /// A pass that was announced. Throws Error(invalid_argument) for one that was not.
  [[nodiscard]] PassRecording& pass(Pass pass);

  /// Rows from `token` on are lost, for that reason.
  void lose(std::int32_t token, const std::string& reason);
  void lose(Pass pass, const std::string& reason);
  [[nodiscard]] bool is_cut_at(std::int32_t token) const { return token >= cut_; }
  [[nodiscard]] const std::string& last_loss() const { return last_loss_; }

  /// Rows that will be in the trace; 0: the request is given up.
  [[nodiscard]] std::int32_t final_length() const;
  /// Hands the last chunks to `take`, which may not refuse them, and says how the sequence ends. Not for a request that
  /// is given up. `token_text`: the bytes of a token; empty where they are not to be stored.
  SequenceEnd finish(const TakeChunk& take, const std::function<std::int32_t(std::int32_t)>& hide_token,
                     const std::function<std::string(std::int32_t)>& token_text);

 private:
  [[nodiscard]] ChunkStream& stream(std::size_t place, LayerTensor tensor) {
    return streams_[place * layer_tensor_count + static_cast<std::size_t>(tensor)];
  }
  void finish_passes(SequenceEnd& end, const TakeChunk& take);

  const ModelRecord* model_;
  const CaptureOptions* options_;
  SequenceInfo info_;
  RequestDescription description_;
  std::vector<std::int32_t> token_ids_;
  std::int32_t cut_ = std::numeric_limits<std::int32_t>::max();
  std::string last_loss_;
  std::vector<ChunkStream> streams_;
  std::vector<std::vector<std::int32_t>> query_rows_;  ///< per captured layer
  std::map<Pass, PassRecording> passes_;
  TokenChannels channels_;
  std::vector<float> scratch_;
};

}  // namespace evictsim::traces::capture
