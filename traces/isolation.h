#pragma once
/// \file
/// A guard against crashes of the HDF5 library. Version 1.10 trusts the metadata of a file: a damaged file can make it
/// read out of bounds, corrupt the heap or loop for ever. What it will do is found out in a child process first.
/// Internal to traces/.

#include <cstdint>
#include <filesystem>
#include <functional>

namespace evictsim::traces {

/// Runs `work` in a forked child with limits on processor time and memory that fit a file of `file_size` bytes; what it
/// changes or throws is lost. Throws Error(not_a_trace) when the child crashes or exceeds its limits, and
/// Error(io_failure) when no child can be started.
void rehearse(const std::filesystem::path& file, std::uint64_t file_size, const std::function<void()>& work);

}  // namespace evictsim::traces
