#pragma once
/// \file
/// The placement that `host` and `disk` share: what the policy cut lies on a slower tier in pages, and every decode row
/// the pages that may matter most come back for its attention.

#include <vector>

#include "policies/page_digest.h"
#include "policies/parameters.h"
#include "policies/placement.h"
#include "policies/retrieval.h"

namespace evictsim::policies {

/// Pages hold entries in the order in which they were cut; each has its digest in HBM. A page's score is the bound of
/// q.k (page_digest.h), agreed over the group. Recalled pages are attended beside the hot entries and dropped after.
class TierRecall : public Placement {
 public:
  TierRecall(Tier tier, const Parameters& parameters);
  static std::vector<ParameterSpec> parameters();

  void begin(const PlacementView& layer) override;
  void cut(const PlacementView& layer) override;
  void attend(const PlacementView& layer, AttendedEntries& attended) override;
  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override;

 private:
  /// Entries newly logged, over all heads.
  Index log_cold(const PlacementView& layer);

  Tier tier_;
  Index page_;
  Index recall_;
  GroupChoice group_;
  std::vector<ColdLog> logs_;         ///< by cache head
  std::vector<PageDigests> digests_;  ///< by cache head
  double written_ = 0;                ///< bytes since the last row that attended
};

}  // namespace evictsim::policies
