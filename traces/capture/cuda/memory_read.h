#pragma once
/// \file
/// Reads memory once from end to end, which is how its bandwidth is measured. One body for host and device.

#include <cstdint>

#include "traces/capture/cuda/pack.h"
#include "traces/capture/cuda/team.h"

namespace evictsim::traces::capture {

/// Team `row` adds up the 32-bit words of every `rows`-th stretch of team_lanes packs into sums[row] (modulo 2^32), so
/// that no load can be left out and neighbouring teams read neighbouring memory.
struct MemoryRead {
  const Pack* data = nullptr;
  std::int64_t packs = 0;
  std::int64_t rows = 1;          ///< teams
  std::uint32_t* sums = nullptr;  ///< [rows]

  struct Scratch {
    std::uint32_t sums[team_lanes];
  };

  template <typename Team>
  EVICTSIM_HOST_DEVICE void operator()(std::int64_t row, const Team& team, Scratch& scratch) const {
    team.each([&](int lane) {
      constexpr int in_flight = 4;  // independent loads, so that one thread waits for several at once
      const std::int64_t step = rows * team_lanes;
      std::int64_t place = row * team_lanes + lane;
      std::uint32_t sum = 0;
      for (; place + (in_flight - 1) * step < packs; place += in_flight * step) {
        Pack loaded[in_flight];
        EVICTSIM_UNROLL
        for (int i = 0; i < in_flight; ++i) loaded[i] = data[place + i * step];
        EVICTSIM_UNROLL
        for (int i = 0; i < in_flight; ++i) sum += sum_of(loaded[i]);
      }
      for (; place < packs; place += step) sum += sum_of(data[place]);
      scratch.sums[lane] = sum;
    });
    fold_lanes(team, [&](int into, int from) { scratch.sums[into] += scratch.sums[from]; });
    team.each([&](int lane) {
      if (lane == 0) sums[row] = scratch.sums[0];
    });
  }

 private:
  EVICTSIM_HOST_DEVICE static std::uint32_t sum_of(const Pack& pack) noexcept {
    return pack.words[0] + pack.words[1] + pack.words[2] + pack.words[3];
  }
};

}  // namespace evictsim::traces::capture
