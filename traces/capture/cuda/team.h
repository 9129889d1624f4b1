#pragma once
/// \file
/// A team of lanes that works on one row together: the threads of a CUDA block, or a loop on the host. Kernel bodies
/// are written as phases, so that both run the same steps and sum in the same order.

#include <cstdint>

#include "traces/host_device.h"

namespace evictsim::traces::capture {

/// Lanes of every team; a power of two.
inline constexpr int team_lanes = 256;

/// The host's team: each phase is a loop over its lanes.
struct HostTeam {
  /// What every lane keeps from phase to phase.
  template <typename Value>
  struct Lanes {
    Value values[team_lanes] = {};
    EVICTSIM_HOST_DEVICE Value& operator[](int lane) noexcept { return values[lane]; }
  };
  /// One phase: `phase(lane)` for every lane; all of it is done before the next phase begins.
  template <typename Phase>
  EVICTSIM_HOST_DEVICE void each(const Phase& phase) const {
    for (int lane = 0; lane < team_lanes; ++lane) phase(lane);
  }
  /// Adds to a counter that lanes share and returns what it was.
  EVICTSIM_HOST_DEVICE static std::uint32_t add(std::uint32_t& counter, std::uint32_t amount) noexcept {
    const std::uint32_t before = counter;
    counter += amount;
    return before;
  }
};

#if defined(__CUDACC__)
/// The threads of one CUDA block of `team_lanes`.
struct BlockTeam {
  /// Registers of this thread.
  template <typename Value>
  struct Lanes {
    Value own = {};
    EVICTSIM_HOST_DEVICE Value& operator[](int) noexcept { return own; }
  };
  template <typename Phase>
  EVICTSIM_HOST_DEVICE void each(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }
  EVICTSIM_HOST_DEVICE static std::uint32_t add(std::uint32_t& counter, std::uint32_t amount) noexcept {
#if defined(__CUDA_ARCH__)
    return atomicAdd(&counter, amount);
#else
    return counter += amount;  // never run: a kernel's body is also parsed for the host
#endif
  }
};
#endif

/// Folds places[0 .. team_lanes) into places[0] with `fold(into, from)`, as a tree of fixed shape.
template <typename Team, typename Fold>
EVICTSIM_HOST_DEVICE void fold_lanes(const Team& team, const Fold& fold) {
  for (int half = team_lanes / 2; half > 0; half /= 2) {
    team.each([&](int lane) {
      if (lane < half) fold(lane, lane + half);
    });
  }
}

}  // namespace evictsim::traces::capture
