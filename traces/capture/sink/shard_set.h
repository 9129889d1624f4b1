#pragma once
/// \file
/// The shards that are open: which one a new request goes into, and when one is sealed. A sequence lies in one shard,
/// so a shard that takes no new requests stays open until the last of its requests has ended.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>

#include "traces/capture/sink/capture_directory.h"
#include "traces/capture/sink/capture_options.h"
#include "traces/capture/sink/open_shard.h"
#include "traces/capture/sink/recording.h"
#include "traces/capture/sink/writer_pool.h"

namespace evictsim::traces::capture {

class ShardSet;

/// The writers' side of one recording. Its work is done by the pool, in any order; the sequence is completed behind the
/// last chunk.
class SequenceWriter : public std::enable_shared_from_this<SequenceWriter> {
 public:
  struct UsedShard;
  SequenceWriter(ShardSet& set, std::shared_ptr<UsedShard> shard, int sequence, std::size_t reserved);
  SequenceWriter(const SequenceWriter&) = delete;
  SequenceWriter& operator=(const SequenceWriter&) = delete;
  ~SequenceWriter();

  void write(Chunk chunk);
  /// No chunk follows. `losses` are those of this request.
  void finish(SequenceEnd end, const Losses& losses);
  void discard(const Losses& losses);

 private:
  void release();
  void complete();

  ShardSet& set_;
  std::shared_ptr<UsedShard> shard_;
  int sequence_;
  std::size_t reserved_;
  std::atomic<int> pending_{1};  // chunks, and one for the end that has not come
  SequenceEnd end_;
  bool discarded_ = false;
};

/// begin_sequence, rotate and rotate_when_old are called by one thread at a time.
class ShardSet {
 public:
  /// All of them must outlive this object; `weights` may be null.
  ShardSet(CaptureDirectory& directory, WriterPool& pool, const CaptureOptions& options, const Header& header,
           WeightStore* weights);
  ~ShardSet();

  /// Starts a sequence in the current shard, or in a new one when that is full or old. Null when the unfinished chunks
  /// of one more request do not fit into memory.
  std::shared_ptr<SequenceWriter> begin_sequence(std::size_t most_pending_bytes);
  /// The current shard takes no new requests.
  void rotate();
  void rotate_when_old();

  [[nodiscard]] std::uint64_t written_bytes() const { return written_bytes_; }
  [[nodiscard]] std::uint64_t sealed() const { return sealed_; }

 private:
  friend class SequenceWriter;
  void release(const std::shared_ptr<SequenceWriter::UsedShard>& shard);
  void seal(SequenceWriter::UsedShard& shard);
  [[nodiscard]] bool is_old() const;

  CaptureDirectory& directory_;
  WriterPool& pool_;
  const CaptureOptions& options_;
  const Header& header_;
  WeightStore* weights_;
  std::shared_ptr<SequenceWriter::UsedShard> current_;
  std::atomic<std::size_t> reserved_{0};
  std::atomic<std::uint64_t> written_bytes_{0}, sealed_{0};
  std::mutex carried_mutex_;
  Losses carried_;  ///< of shards that had no sequence
};

}  // namespace evictsim::traces::capture
