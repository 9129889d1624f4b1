#include "traces/capture/batch_capture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "traces/capture/llama_capture.h"
#include "traces/capture/planned_sequence.h"
#include "traces/capture/sequence_capture.h"
#include "traces/capture/sink/sink.h"
#include "traces/manifest.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

/// A sealed shard that does not hold what the engine computed.
struct BatchCapture::FailedShard {
  std::string name;
  AttentionCheckResult check;
};

/// What one run keeps between its entries.
struct BatchCapture::Run {
  std::filesystem::path directory;
  BatchObserver& observer;
  const std::atomic<bool>* stop;
  BatchReport report;
  std::set<std::string> wanted;                              ///< ids of all entries
  std::map<std::string, std::vector<std::int32_t>> earlier;  ///< by id: prompts of entries that are there already
  std::map<std::string, AttentionCheck> unchecked;           ///< by id: recorded, and not in a checked shard
  std::set<std::string> known_shards;
};

BatchCapture::BatchCapture(const std::filesystem::path& model, const EngineSettings& engine, const RecordPlan& record,
                           std::vector<BatchEntry> entries)
    : model_(model, engine, record), entries_(std::move(entries)) {
  if (!record.hash_token_ids) return;
  if (record.token_key.empty()) {
    throw Error(ErrorCode::invalid_argument,
                "a capture into a directory can go on later, which compares prompts, so hashed token ids need a key "
                "that is kept; add --token-key FILE",
                {.parameter = "token-ids", .value = "hashed"});
  }
  cipher_.emplace(record.token_key, model_.header().vocab_size);
}

void BatchCapture::read_earlier_shard(const std::filesystem::path& file, Run& run) const {
  const Reader reader(file);
  const auto require_same = [&](bool same, const char* what, const std::string& here, const std::string& now) {
    if (same) return;
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("the directory holds a capture with {} {}, this one has {}; write it elsewhere", what, here, now),
        {.file = file.string()});
  };
  const Header &there = reader.header(), &now = model_.header();
  require_same(there.model == now.model, "model", there.model, now.model);
  require_same(there.layers == now.layers, "layers", fmt::format("{}", fmt::join(there.layers, ",")),
               fmt::format("{}", fmt::join(now.layers, ",")));
  const auto form = there.extra.find("capture_token_ids");
  require_same(form == there.extra.end() || (form->second == "hashed") == cipher_.has_value(), "token ids",
               cipher_ ? "plain" : "hashed", cipher_ ? "hashed" : "plain");
  for (std::size_t index = 0; index < reader.sequences().size(); ++index) {
    const SequenceInfo& info = reader.sequences()[index];
    if (!info.request_id || !run.wanted.contains(*info.request_id)) continue;
    const std::vector<float> tokens = reader.read_channel(index, Channel::token_ids).value().data;
    run.earlier[*info.request_id].assign(tokens.begin(), tokens.begin() + info.prompt_length);
  }
}

void BatchCapture::record(const BatchEntry& entry, Sink& sink, Run& run) const {
  const PlannedSequence sequence = plan_sequence(entry.sequence, model_);
  if (const auto there = run.earlier.find(entry.sequence.id); there != run.earlier.end()) {
    std::vector<std::int32_t> stored = sequence.prompt;
    if (cipher_) std::transform(stored.begin(), stored.end(), stored.begin(), *cipher_);
    if (there->second != stored) {
      throw Error(ErrorCode::invalid_argument, "the directory holds another prompt under this id; choose another one",
                  {.file = run.directory.string(), .parameter = "id", .value = entry.sequence.id});
    }
    ++run.report.skipped;
    run.observer.skipped(entry);
    return;
  }
  const RunControl control{
      .progress = [&](std::int32_t done, std::int32_t length) { run.observer.progressed(entry, done, length); },
      .stop = run.stop};
  SequenceCapture capture(model_, sequence, control);
  capture.record(sink);
  ++run.report.recorded;
  if (model_.is_checked()) run.unchecked.emplace(sequence.id, capture.check());
  run.observer.recorded(entry, capture.report());
}

/// Compares what newly sealed shards hold with what the engine computed, up to the first shard that fails.
std::optional<BatchCapture::FailedShard> BatchCapture::check_new_shards(Run& run) const {
  std::error_code ignored;
  if (!std::filesystem::exists(run.directory / manifest_name, ignored)) return std::nullopt;
  for (const Shard& shard : read_manifest(run.directory).shards) {
    if (!run.known_shards.insert(shard.name).second) continue;
    ++run.report.shards;
    const std::filesystem::path file = run.directory / shard.name;
    const Reader reader(file);
    for (std::size_t index = 0; index < reader.sequences().size(); ++index) {
      const auto place = run.unchecked.find(reader.sequences()[index].request_id.value());
      if (place == run.unchecked.end()) continue;
      const AttentionCheckResult result = place->second.compare(reader, index);
      if (!(result.largest <= model_.tolerance())) return FailedShard{shard.name, result};
      run.report.largest_error = std::max(run.report.largest_error, result.largest);
      run.observer.checked(place->first, result);
      run.unchecked.erase(place);
    }
  }
  return std::nullopt;
}

/// Checks newly sealed shards. One that fails ends the batch: all that is sealed by then is checked, too.
void BatchCapture::require_right_shards(Sink& sink, Run& run) const {
  std::optional<FailedShard> failed = check_new_shards(run);
  if (!failed) return;
  sink.flush();  // nobody else may write the manifest
  std::optional<Error> first;
  for (; failed; failed = check_new_shards(run)) {
    const std::filesystem::path rejected = reject_shard(run.directory, failed->name);
    if (!first) first = failed_check(failed->check, model_.tolerance(), rejected);
  }
  throw *first;
}

BatchReport BatchCapture::run(const std::filesystem::path& directory, BatchObserver& observer,
                              const std::atomic<bool>* stop) {
  Run run{.directory = directory, .observer = observer, .stop = stop};
  std::vector<const SequencePlan*> plans;
  for (const BatchEntry& entry : entries_) {
    plans.push_back(&entry.sequence);
    run.wanted.insert(entry.sequence.id);
  }
  Sink sink(directory, model_.sink_options(false));
  std::error_code ignored;
  if (std::filesystem::exists(directory / manifest_name, ignored)) {
    for (const Shard& shard : read_manifest(directory).shards) {
      read_earlier_shard(directory / shard.name, run);
      run.known_shards.insert(shard.name);
    }
  }
  model_.introduce(sink, settings_of(plans), std::nullopt);
  std::uint64_t sealed = 0;
  for (const BatchEntry& entry : entries_) {
    try {
      record(entry, sink, run);
    } catch (const Error& error) {
      sink.discard_request(entry.sequence.id);  // throws what stopped the writers, if they are the cause
      if (error.code() == ErrorCode::interrupted) {
        run.report.interrupted = true;
        break;
      }
      ++run.report.failed;
      observer.failed(entry, error);
    }
    if (const std::uint64_t now = sink.counters().shards; now != std::exchange(sealed, now)) {
      require_right_shards(sink, run);
    }
  }
  sink.close();
  require_right_shards(sink, run);
  return run.report;
}

}  // namespace evictsim::traces::capture
