#pragma once
/// \file
/// What caches do while a sequence is decoded, step by step: evictions, demotions, recalls. Columns: docs/run-file.md.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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

 private:
  /// Sums over layers and cache heads; whole bytes of each layer, so that their order does not matter.
  struct Event {
    std::int64_t resident = 0, evicted = 0;
    std::int64_t recalled_host = 0, recalled_disk = 0;
    std::int64_t written_hbm = 0, written_host = 0, written_disk = 0;
    std::int64_t scanned = 0;
  };
  struct PointEvents {
    bool cut = false;
    std::vector<Event> events;  ///< of the prompt's cut, then of each decode row
  };
  [[nodiscard]] std::string lines_of(std::size_t point) const;

  const sim::ReplayPlan& plan_;
  CsvFile file_;
  sim::SequenceStart start_;
  std::vector<PointEvents> points_;
  std::vector<bool> policy_failed_;
};

}  // namespace evictsim::analysis
