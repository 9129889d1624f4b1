#pragma once
/// \file
/// Captures many prompts into a directory of shards, one after the other with one loaded model.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "traces/capture/batch_file.h"
#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"
#include "traces/capture/sink/token_cipher.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

class Sink;

/// Told what happens, as it happens.
class BatchObserver {
 public:
  virtual ~BatchObserver() = default;
  virtual void progressed(const BatchEntry& entry, std::int32_t done, std::int32_t length) = 0;
  /// Its rows are on their way into a shard; the check comes when that is sealed.
  virtual void recorded(const BatchEntry& entry, const CaptureReport& report) = 0;
  /// The directory holds it already.
  virtual void skipped(const BatchEntry& entry) = 0;
  /// The model cannot take this prompt, or failed on it; the others go on.
  virtual void failed(const BatchEntry& entry, const Error& error) = 0;
  virtual void checked(const std::string& id, const AttentionCheckResult& check) = 0;
};

struct BatchReport {
  std::size_t recorded = 0, skipped = 0, failed = 0;
  std::uint64_t shards = 0;  ///< sealed by this run
  bool interrupted = false;
  double largest_error = 0;  ///< of the checks
};

class BatchCapture {
 public:
  /// Throws Error naming what is wrong with the model or the plan; invalid_argument for hashed token ids without a key,
  /// since prompts could not be compared with those that the directory holds.
  BatchCapture(const std::filesystem::path& model, const EngineSettings& engine, const RecordPlan& record,
               std::vector<BatchEntry> entries);

  /// Records every entry that the directory does not hold; its request_id is the entry's id. Entries that fail leave
  /// nothing behind. Once `stop` is set the entry at hand is given up, and what is finished is sealed.
  ///
  /// Throws Error: what the sink throws; invalid_argument when the directory holds a capture of another model, other
  /// layers or token ids in another form, or another prompt under an entry's id; invalid_value when the check of a
  /// sealed shard fails. That shard is then renamed to its name + ".rejected" and taken out of the manifest, with
  /// everything in it.
  BatchReport run(const std::filesystem::path& directory, BatchObserver& observer, const std::atomic<bool>* stop);

 private:
  struct Run;
  struct FailedShard;
  void read_earlier_shard(const std::filesystem::path& file, Run& run) const;
  void record(const BatchEntry& entry, Sink& sink, Run& run) const;
  std::optional<FailedShard> check_new_shards(Run& run) const;
  void require_right_shards(Sink& sink, Run& run) const;

  CapturedModel model_;
  std::vector<BatchEntry> entries_;
  std::optional<TokenCipher> cipher_;
};

}  // namespace evictsim::traces::capture
