#pragma once
/// \file
/// See parallel_for.h.

namespace tbb::info {

/// More than one, so that races can show on any machine.
inline int default_concurrency() { return 4; }

}  // namespace tbb::info
