#pragma once
/// \file
/// One request on its way into a shard: rows are gathered until they fill chunks, which go to the writers.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/sink/capture_options.h"
#include "traces/capture/sink/open_shard.h"
#include "traces/capture/sink/token_channels.h"

namespace evictsim::traces::capture {

/// Not thread-safe. A row that is lost ends the recording there: keys and values of every token are needed, so what
/// follows a hole is of no use. The sequence is cut before the hole when that lies behind the prompt, else there is
/// none.
class RequestRecording {
 public:
  /// A full chunk, or the last one of a dataset: rows [first, first + rows).
  struct Chunk {
    std::size_t place = 0;
    LayerTensor tensor{};
    std::size_t first = 0, rows = 0;
    std::vector<std::byte> bytes;  ///< of chunk_rows rows
  };
  /// Takes a chunk, or leaves it as it is and returns false: there is no room for it now.
  using Take = std::function<bool(Chunk&)>;

  RequestRecording(std::string request_id, const ModelRecord& model, const CaptureOptions& options);

  /// The bytes that the unfinished chunks of one request can take.
  static std::size_t most_pending_bytes(const ModelRecord& model, const CaptureOptions& options);

  [[nodiscard]] const std::string& request_id() const { return info_.request_id.value(); }
  void describe(SequenceInfo description);  ///< task, text and spans
  void set_prompt_length(std::int32_t length) { info_.prompt_length = length; }
  [[nodiscard]] std::int32_t prompt_length() const { return info_.prompt_length; }
  [[nodiscard]] std::span<const std::int32_t> token_ids() const { return token_ids_; }
  void add_tokens(std::span<const std::int32_t> tokens);

  /// Rows of one tensor of a layer; `tokens` are their token rows, ascending, `bytes` are of `type`. Rows that cannot
  /// be stored, come after a missing one, or come while the chunk before them cannot be given away are lost. Returns
  /// false when a value could not be stored.
  bool append(std::size_t place, LayerTensor tensor, std::span<const std::int32_t> tokens,
              std::span<const std::byte> bytes, TensorType type, const Take& take);
  [[nodiscard]] TokenChannels& channels() { return channels_; }

  /// Rows from `token` on are lost, for that reason.
  void lose(std::int32_t token, const std::string& reason);
  [[nodiscard]] bool is_cut_at(std::int32_t token) const { return token >= cut_; }
  [[nodiscard]] const std::string& last_loss() const { return last_loss_; }

  /// Rows that will be in the trace; 0: the request is given up.
  [[nodiscard]] std::int32_t final_length() const;
  /// Hands the last chunks to `take`, which may not refuse them, and says how the sequence ends. Not for a request that
  /// is given up.
  SequenceEnd finish(const Take& take, const std::function<std::int32_t(std::int32_t)>& hide_token);

 private:
  struct Stream {
    std::vector<std::byte> pending;
    std::size_t submitted = 0;  ///< rows given away
    std::size_t row_bytes = 0, row_elements = 0, chunk_rows = 0;
    [[nodiscard]] std::size_t rows() const { return submitted + pending.size() / row_bytes; }
  };
  [[nodiscard]] Stream& stream(std::size_t place, LayerTensor tensor) {
    return streams_[place * layer_tensor_count + static_cast<std::size_t>(tensor)];
  }
  [[nodiscard]] std::int32_t token_at(std::size_t place, LayerTensor tensor, std::size_t row) const;
  bool append_rows(Stream& stream, std::size_t place, LayerTensor tensor, std::size_t rows, const std::byte* bytes,
                   TensorType type);
  bool submit(Stream& stream, std::size_t place, LayerTensor tensor, const Take& take);

  const ModelRecord* model_;
  const CaptureOptions* options_;
  SequenceInfo info_;
  std::vector<std::int32_t> token_ids_;
  std::int32_t cut_ = std::numeric_limits<std::int32_t>::max();
  std::string last_loss_;
  std::vector<Stream> streams_;
  std::vector<std::vector<std::int32_t>> query_rows_;  ///< per captured layer
  TokenChannels channels_;
  std::vector<float> scratch_;
};

}  // namespace evictsim::traces::capture
