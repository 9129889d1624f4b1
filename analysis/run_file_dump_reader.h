#pragma once
/// \file
/// Reads what `evictsim replay --dump` wrote: which entries each policy keeps. Layout: docs/run-file.md, "The dump".

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/kept_bits.h"
#include "analysis/run_file.h"

namespace evictsim::analysis {

/// One open dump. Movable.
class DumpReader {
 public:
  /// Throws Error: file_not_found, permission_denied; not_a_trace for what is no dump, or a truncated or damaged one;
  /// unsupported_version for one of a newer format.
  explicit DumpReader(const std::filesystem::path& path);
  DumpReader(DumpReader&&) noexcept;
  DumpReader& operator=(DumpReader&&) noexcept;
  ~DumpReader();

  [[nodiscard]] const std::string& path() const;
  /// `created` and the models are not recorded.
  [[nodiscard]] const RecordedProvenance& provenance() const;
  /// What the cut after the prompt kept, by layer in ascending order; nullopt where the dump has no such group.
  [[nodiscard]] std::optional<KeptBits> kept(const std::string& policy, const std::string& budget,
                                             const std::string& sequence, std::size_t prompt_length) const;
  /// Indices in the model of these layers.
  [[nodiscard]] std::vector<std::int32_t> layers(const std::string& policy, const std::string& budget,
                                                 const std::string& sequence) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::analysis
