#pragma once
/// \file
/// What the machine can do, measured in the same run as what we do.

#include <algorithm>
#include <chrono>
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

/// Bytes per second of read(2) over a cached file, front to back, once into memory of the file's size that was used
/// before: what a reader must at least do, since it hands over all of the file in memory.
double plain_read_bytes_per_second(const std::filesystem::path& file);
/// The same into one small buffer again and again, which never leaves the processor's cache: no reader that keeps what
/// it read can reach this, so it is shown beside the other and is no limit.
double scratch_read_bytes_per_second(const std::filesystem::path& file);
/// Stored bytes per second that zlib alone inflates, of shuffled normal float16 deflated at level 1: the limit of a
/// compressed trace.
double inflate_bytes_per_second();

}  // namespace evictsim::bench
