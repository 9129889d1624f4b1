#include "traces/capture/sink/shard_set.h"

#include <utility>

namespace evictsim::traces::capture {
namespace {

using Clock = std::chrono::steady_clock;

void add(Losses& losses, const Losses& more) {
  losses.rows += more.rows;
  losses.requests += more.requests;
  losses.passes += more.passes;
  if (!more.last.empty()) losses.last = more.last;
}

}  // namespace

struct SequenceWriter::UsedShard {
  UsedShard(std::filesystem::path path, const Header& header, const WriterOptions& options, WeightStore* weights)
      : shard(std::move(path), header, options, weights) {}

  OpenShard shard;
  Clock::time_point opened = Clock::now();
  int sequences = 0;
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<int> users{1};  // sequences, and one while new ones come
  std::mutex mutex;
  Losses losses;
};

SequenceWriter::SequenceWriter(ShardSet& set, std::shared_ptr<UsedShard> shard, int sequence, std::size_t reserved)
    : set_(set), shard_(std::move(shard)), sequence_(sequence), reserved_(reserved) {}

SequenceWriter::~SequenceWriter() { set_.reserved_ -= reserved_; }

void SequenceWriter::write(Chunk chunk) {
  ++pending_;
  const std::size_t bytes = chunk.bytes.size();
  // Shared, because the pool's jobs must be copyable.
  auto shared = std::make_shared<Chunk>(std::move(chunk));
  set_.pool_.submit(bytes, [self = shared_from_this(), shared = std::move(shared)](ChunkEncoder& encoder) {
    const Chunk& rows = *shared;
    const CaptureOptions& options = self->set_.options_;
    const EncodedChunk encoded = options.compress ? encoder.encode(rows.bytes.all(), hdf5::element_size(options.type))
                                                  : EncodedChunk{rows.bytes.all(), 0};
    const std::uint64_t written =
        self->shard_->shard.write_chunk(self->sequence_, rows.place, rows.first, rows.first + rows.rows, encoded);
    self->shard_->bytes += written;
    self->set_.written_bytes_ += written;
    self->release();
  });
}

void SequenceWriter::finish(SequenceEnd end, const Losses& losses) {
  end_ = std::move(end);
  {
    const std::lock_guard lock(shard_->mutex);
    add(shard_->losses, losses);
  }
  release();
}

void SequenceWriter::discard(const Losses& losses) {
  discarded_ = true;
  finish({}, losses);
}

void SequenceWriter::release() {
  if (--pending_ == 0) set_.pool_.submit(0, [self = shared_from_this()](ChunkEncoder&) { self->complete(); });
}

void SequenceWriter::complete() {
  if (discarded_) {
    shard_->shard.discard_sequence(sequence_);
  } else {
    shard_->shard.finish_sequence(sequence_, end_);
  }
  end_ = {};
  set_.release(shard_);
}

ShardSet::ShardSet(CaptureDirectory& directory, WriterPool& pool, const CaptureOptions& options, const Header& header,
                   WeightStore* weights)
    : directory_(directory), pool_(pool), options_(options), header_(header), weights_(weights) {}

ShardSet::~ShardSet() = default;

bool ShardSet::is_old() const {
  if (options_.single_file) return false;
  return current_->bytes >= options_.shard_bytes ||
         Clock::now() - current_->opened >= std::chrono::seconds(options_.shard_seconds);
}

std::shared_ptr<SequenceWriter> ShardSet::begin_sequence(std::size_t most_pending_bytes) {
  if (reserved_ != 0 && reserved_ + most_pending_bytes > options_.memory_bytes) return nullptr;
  rotate_when_old();
  if (current_ == nullptr) {
    const WriterOptions writer{.tensor_type = options_.type, .compress = options_.compress};
    current_ = std::make_shared<SequenceWriter::UsedShard>(directory_.next_shard(), header_, writer, weights_);
  }
  reserved_ += most_pending_bytes;
  ++current_->users;
  return std::make_shared<SequenceWriter>(*this, current_, current_->sequences++, most_pending_bytes);
}

void ShardSet::rotate() {
  if (current_ != nullptr) release(std::exchange(current_, nullptr));
}

void ShardSet::rotate_when_old() {
  if (current_ != nullptr && current_->sequences > 0 && is_old()) rotate();
}

void ShardSet::release(const std::shared_ptr<SequenceWriter::UsedShard>& shard) {
  if (--shard->users == 0) pool_.submit(0, [this, shard](ChunkEncoder&) { seal(*shard); });
}

void ShardSet::seal(SequenceWriter::UsedShard& shard) {
  Losses losses;
  {
    const std::lock_guard lock(carried_mutex_);
    losses = std::exchange(carried_, {});
  }
  add(losses, shard.losses);
  if (shard.shard.seal(losses, !options_.single_file)) {
    ++sealed_;
    return;
  }
  const std::lock_guard lock(carried_mutex_);
  add(carried_, losses);
}

}  // namespace evictsim::traces::capture
