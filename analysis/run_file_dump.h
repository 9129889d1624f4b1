#pragma once
/// \file
/// The dump of what each policy keeps: `/<policy>/<budget>/<sequence>/layer_000/head_0/{kept,score}`, and for policies
/// that cut while decoding `resident` and `rows`. Layout: docs/run-file.md.

#include <filesystem>
#include <memory>

#include "analysis/forwarding_observer.h"
#include "analysis/run_file.h"
#include "traces/reader.h"

namespace evictsim::analysis {

/// Writes finished sequences of the replay that passes through it; the file appears under its name at `seal()`. Layers
/// come in any order: a sequence waits in a scratch file on disk and is written in the order of points, layers and
/// heads, so that the bytes do not depend on the number of threads. In memory: an index, and one head's resident rows.
/// Needs ReplayOptions::with_scores and with_resident.
class DumpObserver : public ForwardingObserver {
 public:
  /// Creates the temporary file beside `path`. Throws Error: permission_denied, file_not_found, io_failure;
  /// invalid_argument when two traces hold sequences of one name, since sequences name the groups. `provenance` goes to
  /// the root's attributes, but for `created`: the bytes of the same replay are the same.
  DumpObserver(const std::filesystem::path& path, const sim::ReplayPlan& plan,
               const std::vector<traces::Reader>& readers, const Provenance& provenance, sim::ReplayObserver& next);
  ~DumpObserver() override;

  void begin_sequence(const sim::SequenceStart& start) override;
  void failed(std::size_t policy, const std::string& why) override;
  void prompt_cut(sim::PromptCut&& cut) override;
  void layer_block(const sim::LayerBlock& block) override;
  void end_sequence() override;

  /// Leaves out a sequence that was begun and not ended, syncs and renames.
  void seal();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::analysis
