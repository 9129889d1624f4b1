#pragma once
/// \file
/// Reads run.h5 back, for reports: rows at once, detail array by array. Layout: docs/run-file.md.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/kept_bits.h"
#include "analysis/run_accumulator.h"
#include "analysis/run_file.h"
#include "analysis/run_file_dump_reader.h"
#include "analysis/run_row.h"

namespace evictsim::analysis {

/// Everything but `/detail` and `/profile`.
struct RunContents {
  struct Policy {
    std::string name, expansion, status;
  };
  std::string path;  ///< of the file, as given
  RecordedProvenance provenance;
  std::vector<Policy> policies;
  /// Columns that an older evictsim did not write are not available.
  std::vector<RunRow> rows;
  /// By row: bytes of the whole prompt's keys and values in the layers evaluated. Empty without `/profile`.
  std::vector<double> full_bytes;
};

/// One open run file. Movable.
class RunReader {
 public:
  /// Throws Error: file_not_found, permission_denied; not_a_trace for what is no run file, or a truncated or damaged
  /// one; unsupported_version for one of a newer format.
  explicit RunReader(const std::filesystem::path& path);
  RunReader(RunReader&&) noexcept;
  RunReader& operator=(RunReader&&) noexcept;
  ~RunReader();

  [[nodiscard]] const RunContents& contents() const;
  /// Whether that dump was made from traces of this run, so that it may tell what the cuts kept.
  [[nodiscard]] bool fits(const DumpReader& dump) const;
  /// Where this file does not say what cuts kept, `dump` does.
  void use(std::shared_ptr<const DumpReader> dump);
  /// A metric of that row with exactly these axes ("layer,head", "step"), however it was asked for; nullopt: the file
  /// does not hold it. Arrays with more axes than `axes` are averaged over the others, what is not available left out
  /// (`squared_error` and bytes are summed over layers).
  [[nodiscard]] std::optional<DetailArray> detail(std::size_t row, const std::string& metric,
                                                  const std::string& axes) const;
  /// The same of what is kept once per sequence, for the full cache.
  [[nodiscard]] std::optional<DetailArray> full_detail(std::size_t row, const std::string& metric,
                                                       const std::string& axes) const;
  /// What that row's cut after the prompt kept; nullopt without `--per layer,head,entry` and a dump.
  [[nodiscard]] std::optional<KeptBits> kept(std::size_t row) const;
  /// Layers (indices in the model) and decode rows (token rows) that the detail of this row's sequence is about; empty
  /// without detail.
  [[nodiscard]] std::vector<std::int32_t> layers(std::size_t row) const;
  [[nodiscard]] std::vector<std::int32_t> steps(std::size_t row) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::analysis
