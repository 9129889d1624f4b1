#pragma once
/// \file
/// Kernels that an engine ran, reduced to what a step spends on attention, matrix products and collectives.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/gpu.h"

namespace evictsim::traces::capture {

enum class KernelClass : std::uint8_t { attention, gemm, collective, other };

/// Class of a kernel by its name, mangled or not: the first line of the table of docs/gpu.md whose word occurs in it,
/// whatever the case; `other` without one.
KernelClass classify_kernel(std::string_view name);

/// One execution of a kernel; nanoseconds of one clock.
struct KernelRecord {
  int device = 0;
  std::string name;
  std::int64_t start = 0;
  std::int64_t end = 0;
};

/// How records are cut into steps.
struct StepRule {
  int device = 0;  ///< kernels of others are left out
  /// A step ends with the kernel whose name contains this text (the sampler's, for example); empty: by `gap`.
  std::string last_kernel;
  std::int64_t gap = 200'000;       ///< else a step ends where no kernel runs for so many nanoseconds
  std::size_t skip = 0;             ///< leading steps that are left out, warming up
  std::int64_t fewest_kernels = 2;  ///< shorter runs of kernels are no steps
};

/// Medians over the steps in `records`, whose order does not matter. Kernels behind the last `last_kernel` belong to
/// a step that was not finished and are left out. Kernels that overlap count fully in their classes; span and idle
/// are of the union. Throws Error (invalid_value) for a record that ends before it starts, (missing_data) when no step
/// is left.
models::EngineSteps reduce_activity(std::span<const KernelRecord> records, const StepRule& rule);

/// Reads what the collector writes: the line `device,start_ns,end_ns,name`, then a line per kernel. A last line without
/// its end is left out: the engine was stopped while it was written. Throws Error (file_not_found, permission_denied,
/// invalid_value with the line's number).
std::vector<KernelRecord> read_activity(const std::filesystem::path& file);

}  // namespace evictsim::traces::capture
