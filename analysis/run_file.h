#pragma once
/// \file
/// run.h5: everything a replay found, and where it came from. Layout: docs/run-file.md.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "analysis/event_log.h"
#include "analysis/run_accumulator.h"
#include "policies/policy.h"

namespace evictsim::analysis {

/// Where the numbers come from.
struct Provenance {
  struct Input {
    std::string path;
    std::string checksum;  ///< SHA-256 of the file
    std::string model;
  };
  std::string command_line;
  std::uint64_t seed = 0;
  std::string created;  ///< ISO 8601
  std::vector<Input> inputs;
};

/// As a file tells it.
struct RecordedProvenance : Provenance {
  std::string evictsim_version;
  bool complete = false;  ///< false: interrupted
};

/// Collects finished sequences; the file appears under its name, complete and synced, at `seal()`. Destroyed without
/// it, the temporary file is removed.
class RunFile {
 public:
  /// Creates the temporary file beside `path`. `plan` must outlive this.
  /// Throws Error(permission_denied, file_not_found, io_failure).
  RunFile(const std::filesystem::path& path, const sim::ReplayPlan& plan, Provenance provenance);
  ~RunFile();
  RunFile(const RunFile&) = delete;
  RunFile& operator=(const RunFile&) = delete;

  /// Keeps the rows, and writes the detail at once.
  /// `events`: of the sequence, for `/events`; null: none.
  void add(const SequenceResult& result, const EventLog* events = nullptr);
  /// Writes what `add` brought, syncs and renames. `complete` says whether the replay came to its end.
  void seal(bool complete);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::analysis
