#pragma once
/// \file
/// What is measured, and how the results become a GPU description (docs/gpu.md).

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/gpu.h"
#include "traces/capture/probe/probe_device.h"

namespace evictsim::traces::capture {

struct ProbePlan {
  int warm_up = 5;   ///< repetitions that are not counted
  int repeats = 30;  ///< repetitions that are
  std::vector<std::size_t> copy_bytes = {4, 4U << 10, 64U << 10, 1U << 20, 16U << 20, 256U << 20};
  std::vector<int> read_times_l2 = {4, 8, 16, 32};  ///< sizes of memory to read, in L2 caches
  // Attention: a geometry, and every combination of the lists.
  ElementType type = ElementType::f16;
  int group = 4;
  int width = 128;
  int kv_heads = 8;
  std::vector<int> sequences = {1, 8, 32};
  std::vector<int> mean_entries = {256, 1024, 4096, 16384};  ///< per head
  std::vector<int> page_sizes = {16, 32, 64, 128, 256};
  std::vector<double> raggedness = {1, 8};  ///< entries of the longest head over those of the shortest
};

/// The same with few, small cases: seconds instead of minutes.
ProbePlan quick_plan();

/// Lengths of `heads` heads that together have about heads * mean entries, the longest `raggedness` times the shortest
/// and the ones between spaced evenly in their logarithm: what budgets that are shared between heads come to (Ada-KV,
/// arXiv:2407.11550). Neighbours differ. At least one entry each.
std::vector<std::int32_t> ragged_lengths(std::size_t heads, int mean, double raggedness);

/// Measures everything on `device`. `base` gives what a probe cannot measure (arithmetic rates, the memory as sold).
/// `software` names program and version for the sources; `progress` is told what comes next.
/// Cases that would need more than half of the free memory are left out. Throws Error as ProbeDevice does.
models::Gpu probe(ProbeDevice& device, const ProbePlan& plan, const std::optional<models::Gpu>& base,
                  const std::string& software, const std::function<void(const std::string&)>& progress);

}  // namespace evictsim::traces::capture
