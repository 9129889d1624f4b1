#pragma once
/// \file
/// Descriptions of memories outside a GPU and of the ways to them: host memory, SSDs, object stores, networks. Data
/// files like those of GPUs; the format: docs/tiers.md.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::models {

/// Moving bytes one way: latency + pieces * seconds_per_piece + bytes / bytes_per_second.
struct StorageRate {
  double latency_seconds = 0;
  double bytes_per_second = 0;
  double seconds_per_piece = 0;
};

struct Storage {
  std::string name, product;
  std::vector<std::string> sources;
  StorageRate read, write;                          ///< toward the processor and away from it
  std::optional<double> combined_bytes_per_second;  ///< of both directions together
};

/// Throws Error, which names file and field, for what is missing, out of range or unknown.
Storage read_storage(const std::filesystem::path& file);
/// By the name of a file in `storage/` of data_directories() (models/data_files.h), or by path.
Storage find_storage(const std::string& name);

}  // namespace evictsim::models
