#pragma once
/// \file
/// Which replica of a group gets a request.

#include <cstddef>
#include <span>

#include "sim/serving/replica.h"

namespace evictsim::sim {

class Router {
 public:
  Router(Routing routing, int imbalance) : routing_(routing), imbalance_(imbalance) {}

  /// Index into `replicas`, not empty. Ties go to the less loaded, then to the first.
  std::size_t choose(std::span<Replica> replicas, const Sequence& sequence, Time now);

 private:
  Routing routing_;
  std::int64_t imbalance_;
  std::size_t next_ = 0;
};

}  // namespace evictsim::sim
