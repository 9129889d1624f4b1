#pragma once
/// \file
/// What becomes of every entry of a sequence: by layer and head where asked for, averaged over them where not.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "analysis/detail_axes.h"
#include "sim/replay/replay.h"

namespace evictsim::analysis {

/// One number per entry, by the axes asked for, in the order layer, head, entry; NaN where nothing was evaluated.
struct EntryArray {
  std::string name;
  std::string axes;                ///< "layer,entry"
  std::vector<std::size_t> shape;  ///< of `values`, or of `bits`
  std::vector<float> values;
  /// Instead of values where these are 0 or 1: entry e of the last axis is bit e % 8 of its byte e / 8.
  std::vector<std::uint8_t> bits;
  std::size_t entries = 0;  ///< behind `bits`
};

/// Collects one sequence. Sums are made in fixed point (2^-40), so that the order of layers does not matter. Memory: 16
/// bytes per point and entry, 24 for a prompt's; times the layers (and for what is kept the cache heads) where these
/// are asked for, except that what is kept by layer and head takes a bit.
class EntryDetail {
 public:
  EntryDetail(const sim::SequenceStart& start, std::size_t points, DetailAxes axes);

  void add(const sim::PromptCut& cut);
  void add(const sim::FullEntries& entries);
  void add(const sim::EntryLosses& losses);

  /// entry_attention_full, entry_attended_most_full; none without decode rows.
  [[nodiscard]] std::vector<EntryArray> full() const;
  /// entry_kept, entry_lost_mass, entry_premature; the last two not without decode rows.
  [[nodiscard]] std::vector<EntryArray> of(std::size_t point) const;

 private:
  /// Sums of numbers between 0 and 1, by slot and entry.
  class Sums {
   public:
    void resize(std::size_t slots, std::size_t entries);
    void add(std::size_t slot, std::span<const double> values);
    /// A part that is 1 at `entries` and 0 elsewhere.
    void add(std::size_t slot, std::span<const std::int32_t> entries);
    [[nodiscard]] bool empty() const { return parts_.empty(); }
    [[nodiscard]] std::size_t slots() const { return parts_.size(); }
    /// Means over the parts, slot after slot.
    [[nodiscard]] std::vector<float> means() const;

   private:
    std::size_t entries_ = 0;
    std::vector<std::int64_t> sums_;
    std::vector<std::int64_t> parts_;
  };
  struct Point {
    std::size_t cache_heads = 0;
    Sums kept;                            ///< by layer and cache head, as far as asked for
    std::vector<std::uint8_t> kept_bits;  ///< [layer, cache head, bytes] where both are asked for
    Sums lost_mass, premature;            ///< by layer, where asked for
  };

  [[nodiscard]] std::size_t bytes_per_head() const { return (prompt_length_ + 7) / 8; }
  [[nodiscard]] std::size_t slots(std::size_t heads) const;
  [[nodiscard]] std::size_t slot(std::size_t layer, std::size_t head, std::size_t heads) const;
  [[nodiscard]] EntryArray array(const char* name, const Sums& sums, bool by_head, std::size_t heads) const;

  DetailAxes axes_;
  std::size_t layers_, query_heads_, prompt_length_, length_;
  Sums attention_, attended_most_;
  std::vector<Point> points_;
};

}  // namespace evictsim::analysis
