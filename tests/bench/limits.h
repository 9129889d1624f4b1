#pragma once
/// \file
/// What the machine can do, measured in the same run as what we do.

#include <chrono>
#include <algorithm>
#include <filesystem>
#include <limits>

#include "models/matrix.h"

namespace evictsim::bench {

/// Seconds of the fastest of `repeats` calls.
template <typename Work>
double fastest(int repeats, const Work& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// FLOP/s of one thread's C[m, n] = A[m, k] B[k, n] in float32: the faster of Eigen and (when built with it) OpenBLAS.
double sgemm_flops(models::Index m, models::Index n, models::Index k);

/// Bytes per second of reading a cached file front to back into one buffer.
double plain_read_bytes_per_second(const std::filesystem::path& file);

}  // namespace evictsim::bench
