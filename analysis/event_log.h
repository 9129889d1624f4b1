#pragma once
/// \file
/// What caches do while a sequence is decoded, step by step: evictions, demotions, recalls. Columns: docs/run-file.md.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/cache_event.h"
#include "analysis/csv.h"
#include "analysis/forwarding_observer.h"

namespace evictsim::analysis {

std::vector<std::string> event_column_names();

/// Appends the lines of every finished sequence to a CSV file. Memory: a few counts per point and decode row.
class EventLog : public ForwardingObserver {
 public:
  /// Creates the file. `plan` and `next` must outlive this.
  EventLog(const std::filesystem::path& path, const sim::ReplayPlan& plan, sim::ReplayObserver& next);

  void begin_sequence(const sim::SequenceStart& start) override;
  void failed(std::size_t policy, const std::string& why) override;
  void prompt_cut(sim::PromptCut&& cut) override;
  void layer_block(const sim::LayerBlock& block) override;
  void end_sequence() override;

  /// Of the sequence that ends, while end_sequence() runs; empty where there are none.
  [[nodiscard]] std::span<const CacheEvent> events(std::size_t point) const;

 private:
  struct PointEvents {
    bool cut = false;
    std::vector<CacheEvent> events;  ///< of the prompt's cut, then of each decode row
  };
  [[nodiscard]] std::string lines_of(std::size_t point) const;

  const sim::ReplayPlan& plan_;
  CsvFile file_;
  sim::SequenceStart start_;
  std::vector<PointEvents> points_;
  std::vector<bool> policy_failed_;
};

}  // namespace evictsim::analysis
