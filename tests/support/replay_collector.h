#pragma once
/// \file
/// A replay observer that keeps everything, for tests.

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sim/replay/replay.h"

namespace evictsim::test {

/// Rows of one point in one layer, blocks joined in row order.
struct CollectedRows {
  std::vector<std::int32_t> rows;
  int query_heads = 0;
  std::vector<float> retained_mass, output_error, dilution, entropy;  ///< [R * Hq]
  std::vector<float> regret, oracle_gain, premature_evictions;        ///< [R * Hq]
  std::vector<double> error_squared, output_squared;                  ///< [R]
  std::vector<std::int32_t> resident, evicted;                        ///< [R * heads]
  std::vector<std::vector<std::uint8_t>> resident_rows;               ///< [head] [R * T]
  std::int64_t cuts = 0, scored_entries = 0;                          ///< while decoding
  std::vector<policies::StepTraffic> traffic;                         ///< [R]; empty without a placement
  std::vector<policies::TierBytes> stored;                            ///< [R]; the same, and only where asked for
  std::array<std::vector<float>, sim::token_class_count> class_mass;  ///< [R * Hq]
};

/// What became of the entries of one layer; of the full cache by query head, of a point the mean over these.
struct CollectedEntries {
  std::vector<std::vector<double>> attention, attended_most;  ///< [Hq][T]
  std::vector<double> lost_mass, premature_evictions;         ///< [T]
};

/// Results of one sequence, by (point, layer slot).
class ReplayCollector final : public sim::ReplayObserver {
 public:
  using Key = std::pair<std::size_t, std::size_t>;

  void begin_sequence(const sim::SequenceStart& begun) override { start = begun; }
  void skipped(std::size_t policy, const std::string& why) override { skipped_policies[policy] = why; }
  void failed(std::size_t policy, const std::string& why) override { failed_policies[policy] = why; }
  void prompt_cut(sim::PromptCut&& cut) override {
    const Key key{cut.point, cut.layer};
    cuts[key] = std::move(cut);
  }
  void full_block(const sim::FullBlock& block) override {
    CollectedRows& whole = full[block.layer];
    append(block.dilution, whole.dilution);
    append(block.entropy, whole.entropy);
    append_classes(block.class_mass, whole);
  }
  void full_entries(const sim::FullEntries& entries) override {
    full_cache_entries[entries.layer] = {.attention = {entries.attention.begin(), entries.attention.end()},
                                         .attended_most = {entries.attended_most.begin(), entries.attended_most.end()},
                                         .lost_mass = {},
                                         .premature_evictions = {}};
  }
  void entry_losses(const sim::EntryLosses& losses) override {
    lost_entries[{losses.point, losses.layer}] = {
        .attention = {},
        .attended_most = {},
        .lost_mass = {losses.lost_mass.begin(), losses.lost_mass.end()},
        .premature_evictions = {losses.premature_evictions.begin(), losses.premature_evictions.end()}};
  }
  void layer_block(const sim::LayerBlock& block) override {
    CollectedRows& out = rows[{block.point, block.layer}];
    out.rows.insert(out.rows.end(), block.rows.begin(), block.rows.end());
    out.query_heads = static_cast<int>(block.retained_mass.cols());
    append(block.retained_mass, out.retained_mass);
    append(block.output_error, out.output_error);
    append(block.dilution, out.dilution);
    append(block.entropy, out.entropy);
    append(block.regret, out.regret);
    append(block.oracle_gain, out.oracle_gain);
    append(block.premature_evictions, out.premature_evictions);
    out.error_squared.insert(out.error_squared.end(), block.error_squared.begin(), block.error_squared.end());
    out.output_squared.insert(out.output_squared.end(), block.output_squared.begin(), block.output_squared.end());
    out.resident.insert(out.resident.end(), block.resident.begin(), block.resident.end());
    out.evicted.insert(out.evicted.end(), block.evicted.begin(), block.evicted.end());
    append_classes(block.class_mass, out);
    out.stored.insert(out.stored.end(), block.stored.begin(), block.stored.end());
    out.traffic.insert(out.traffic.end(), block.traffic.begin(), block.traffic.end());
    out.cuts += block.cuts;
    out.scored_entries += block.scored_entries;
    out.resident_rows.resize(std::max(out.resident_rows.size(), block.resident_rows.size()));
    for (std::size_t head = 0; head < block.resident_rows.size(); ++head) {
      const auto& added = block.resident_rows[head];
      out.resident_rows[head].insert(out.resident_rows[head].end(), added.begin(), added.end());
    }
  }
  void end_sequence() override { ++finished_sequences; }
  void progress(double) override {}

  sim::SequenceStart start;
  std::map<std::size_t, std::string> skipped_policies, failed_policies;
  std::map<Key, sim::PromptCut> cuts;
  std::map<Key, CollectedRows> rows;
  std::map<std::size_t, CollectedRows> full;
  std::map<std::size_t, CollectedEntries> full_cache_entries;
  std::map<Key, CollectedEntries> lost_entries;
  int finished_sequences = 0;

 private:
  static void append_classes(std::span<const models::Matrix> masses, CollectedRows& out) {
    for (std::size_t kind = 0; kind < masses.size(); ++kind) {
      append(models::view(masses[kind].data(), masses[kind].rows(), masses[kind].cols()), out.class_mass[kind]);
    }
  }
  static void append(const models::MatrixView& matrix, std::vector<float>& out) {
    for (models::Index row = 0; row < matrix.rows(); ++row) {
      for (models::Index column = 0; column < matrix.cols(); ++column) out.push_back(matrix(row, column));
    }
  }
};

}  // namespace evictsim::test
