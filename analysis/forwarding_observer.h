#pragma once
/// \file
/// The base of observers that look at results on their way to another one.

#include <string>
#include <utility>

#include "sim/replay/replay.h"

namespace evictsim::analysis {

/// Hands every call on to `next`, which must outlive it.
class ForwardingObserver : public sim::ReplayObserver {
 public:
  explicit ForwardingObserver(sim::ReplayObserver& next) : next_(next) {}
  void begin_sequence(const sim::SequenceStart& start) override { next_.begin_sequence(start); }
  void skipped(std::size_t policy, const std::string& why) override { next_.skipped(policy, why); }
  void failed(std::size_t policy, const std::string& why) override { next_.failed(policy, why); }
  void prompt_cut(sim::PromptCut&& cut) override { next_.prompt_cut(std::move(cut)); }
  void full_block(const sim::FullBlock& block) override { next_.full_block(block); }
  void layer_block(const sim::LayerBlock& block) override { next_.layer_block(block); }
  void full_entries(const sim::FullEntries& entries) override { next_.full_entries(entries); }
  void entry_losses(const sim::EntryLosses& losses) override { next_.entry_losses(losses); }
  void end_sequence() override { next_.end_sequence(); }
  void progress(double share) override { next_.progress(share); }

 private:
  sim::ReplayObserver& next_;
};

}  // namespace evictsim::analysis
