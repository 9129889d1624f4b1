#pragma once
/// \file
/// The capture sink behind the C interface (traces/capture/evictsim_capture.h, which says what each call means):
/// requests, steps, sampling, and what arrives from host and device tensors.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "traces/capture/evictsim_capture.h"
#include "traces/capture/row_batch.h"
#include "traces/capture/sink/capture_directory.h"
#include "traces/capture/sink/capture_options.h"
#include "traces/capture/sink/recording.h"
#include "traces/capture/sink/shard_set.h"
#include "traces/capture/sink/tensor_rows.h"
#include "traces/capture/sink/token_cipher.h"
#include "traces/capture/sink/writer_pool.h"
#include "traces/capture/token_statistics.h"

namespace evictsim::traces::capture {

/// A call at a time when it cannot be.
class WrongOrder : public Error {
 public:
  explicit WrongOrder(const std::string& message) : Error(ErrorCode::invalid_argument, message) {}
};

/// Members may be called from any thread. Every call throws Error, also for what went wrong in the writers before it.
class Sink final : public RowReceiver {
 public:
  Sink(const std::filesystem::path& directory, CaptureOptions options);
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink() override;

  void set_model(const char* attributes);
  /// The same from a header; see make_model_record for what is not looked at.
  void set_model(Header header);
  void add_setting(const std::string& name, const std::string& value);
  void add_weight(const DLTensor* tensor, std::int32_t weight, std::int32_t layer);
  /// Texts by token id, for store_text; tokens behind them have none.
  void set_vocabulary(std::vector<std::string> texts);
  void describe_request(const std::string& request_id, const char* attributes, const char* text);
  /// The same from `info`: its task, text and spans.
  void describe_request(const std::string& request_id, SequenceInfo info);
  void describe_second_pass(const std::string& request_id, SecondPass rows);
  void describe_packets(const std::string& request_id, PacketSet set, Packets packets);
  void begin_step(std::span<const evictsim_capture_rows> ranges);
  void begin_pass(Pass pass, std::span<const evictsim_capture_rows> ranges);
  void push(const DLTensor* tensor, std::int32_t role, std::int32_t layer, void* stream);
  void end_step();
  std::uint64_t begin_graph(void* stream);
  void end_graph();
  void begin_replay(std::uint64_t graph, void* stream);
  void end_replay();
  void finish_request(const std::string& request_id);
  void discard_request(const std::string& request_id);
  void flush();
  void close();
  [[nodiscard]] evictsim_capture_counters counters();
  [[nodiscard]] std::string last_loss();

  // RowReceiver: rows of device tensors.
  void receive(const RowBatch& batch) override;
  void dropped(const RowSelection& selection) override;
  void failed(const Error& error) override;

 private:
  struct Request {
    std::uint64_t number = 0;
    std::shared_ptr<SequenceWriter> writer;  ///< null: not recorded
    std::unique_ptr<RequestRecording> recording;
    std::int64_t seen = 0;     ///< rows that came
    std::int64_t reached = 0;  ///< one past the last position of these
    int on_their_way = 0;      ///< selections given to the device path
    bool finished = false;
    bool discarded = false;
  };
  struct Step {
    std::uint64_t number = 0;
    bool open = false;
    std::shared_ptr<RowMap> rows, queries;
    std::vector<bool> pushed;  ///< by role and layer
  };
  using Requests = std::unordered_map<std::string, std::unique_ptr<Request>>;

  void require_sound() const;
  void require_model() const;
  void take_model(ModelRecord record);
  RequestDescription& description_of(const std::string& request_id);
  void check_places(std::span<const evictsim_capture_rows> ranges) const;
  void check_tokens(std::span<const evictsim_capture_rows> ranges) const;
  void open_step(Pass pass);
  Request& request_of(const evictsim_capture_rows& range);
  [[nodiscard]] bool admit();
  void add_rows(Request& request, const evictsim_capture_rows& range);
  [[nodiscard]] bool is_wanted(Role role, int layer) const;
  [[nodiscard]] bool is_pushed(Role role, int layer) const;
  [[nodiscard]] std::size_t push_slot(Role role, int layer) const;
  [[nodiscard]] const std::shared_ptr<RowMap>& rows_for(Role role, int layer) const;
  [[nodiscard]] TensorRows read(const DLTensor* tensor, Role role) const;
  DeviceCopier& device_copier();
  [[nodiscard]] std::vector<RowSelection> device_selections(RowSelection selection) const;
  void expect_rows(const RowSelection& wanted);
  void add_to_graph(std::unique_lock<std::mutex>& lock, const DLTensor& tensor, Role role, int layer, void* stream);
  void start_copy(std::unique_lock<std::mutex>& lock, const DLTensor& tensor, RowSelection selection, void* stream);
  void take(const RowBatch& batch);
  void take_rows(Request& request, const RowBatch& batch, std::span<const std::int32_t> tokens,
                 std::span<const std::byte> bytes);
  void arrived(const RowMap& rows);
  void drain();
  bool take_chunk(Request& request, Chunk& chunk);
  void take_pass_rows(Request& request, const RowBatch& batch, std::span<const std::int32_t> rows,
                      std::span<const std::byte> bytes);
  void conclude(const std::string& request_id, bool discard);
  void end_request(Request& request);
  void close_step();
  void count_call(std::chrono::steady_clock::time_point start);
  [[nodiscard]] Request* find(std::uint64_t number);

  const CaptureOptions options_;
  CaptureDirectory directory_;
  mutable std::mutex mutex_;  ///< everything below but the pool
  bool has_model_ = false, has_begun_ = false;
  ModelRecord model_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<TokenCipher> cipher_;
  std::function<std::string(std::int32_t)> token_text_;  ///< empty: unknown, or not to be stored
  std::unique_ptr<ShardSet> shards_;
  std::unique_ptr<WriterPool> pool_;
  std::unique_ptr<DeviceCopier> copier_;
  std::map<std::string, RequestDescription> descriptions_;
  Requests requests_;
  std::vector<std::unique_ptr<Request>> ending_;  ///< finished, with rows on their way
  std::unordered_map<std::uint64_t, Request*> by_number_;
  std::uint64_t next_request_ = 0;
  Step step_;
  std::uint64_t graph_ = 0;                                    ///< being captured; 0: none
  std::map<std::uint64_t, std::vector<RowSelection>> graphs_;  ///< what each copies
  std::vector<RowSelection> replay_;                           ///< what the open replay copies
  bool replaying_ = false;
  DistributionReducer reducer_;
  std::vector<std::byte> gathered_;
  std::vector<float> floats_;
  std::vector<std::int32_t> tokens_;
  bool has_bad_value_ = false;
  std::string last_loss_;
  evictsim_capture_counters counters_{};
  double credit_ = 0;  ///< bytes that may be taken now, under bytes_per_second
  std::chrono::steady_clock::time_point credited_ = std::chrono::steady_clock::now();
};

}  // namespace evictsim::traces::capture
