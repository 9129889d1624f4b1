#pragma once
/// \file
/// What placements share that keep the cut entries in HBM by a lossy code and attend them as decoded.

#include <vector>

#include "policies/placement.h"
#include "policies/retrieval.h"

namespace evictsim::policies {

/// Every row seen is attended: hot entries as recorded, cut ones as `encode` left them.
class InPlaceCodes : public Placement {
 public:
  void begin(const PlacementView& layer) override;
  void cut(const PlacementView& layer) override { encode_all(layer); }
  void attend(const PlacementView& layer, AttendedEntries& attended) override;
  [[nodiscard]] models::MatrixView attended_keys(const PlacementView& layer, int head) const override;
  [[nodiscard]] models::MatrixView attended_values(const PlacementView& layer, int head) const override;
  /// Exact entries and codes; add what the codec shares.
  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override;

 protected:
  struct Head {
    ColdLog log;               ///< cut so far
    Index coded_keys = 0;      ///< rows whose keys are coded
    Index coded_values = 0;    ///< rows whose values are coded
    Index bytes = 0;           ///< of all codes
    ChangedRows keys, values;  ///< as attended
  };

  /// Called once, before anything is encoded.
  virtual void prepare(const PlacementView& layer) { static_cast<void>(layer); }
  /// Codes what is newly cut of a cache head, writes the decoded numbers into `own` and counts.
  virtual void encode(const PlacementView& layer, int head, Head& own) = 0;
  [[nodiscard]] const std::vector<Head>& heads() const { return heads_; }

 private:
  void encode_all(const PlacementView& layer);

  std::vector<Head> heads_;  ///< by cache head
  double written_ = 0;       ///< bytes since the last row that attended
};

}  // namespace evictsim::policies
