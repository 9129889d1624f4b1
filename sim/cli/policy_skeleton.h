#pragma once
/// \file
/// The files that a new policy starts from.

#include <filesystem>
#include <string>
#include <vector>

namespace evictsim {

enum class SkeletonKind { scorer, allocator };

struct PolicySkeleton {
  std::filesystem::path source, test;
  /// Lines that the build lists need, one per CMakeLists.txt: where, and what.
  std::vector<std::string> lines_to_add;
};

/// Writes policies/scorers/NAME.cpp (or allocators/) and tests/unit/policies_NAME_test.cpp under `directory`. Throws
/// Error: invalid_argument for a name that is no plain one or taken, and where one of the files exists; io_failure.
PolicySkeleton write_policy_skeleton(SkeletonKind kind, const std::string& name,
                                     const std::filesystem::path& directory);

}  // namespace evictsim
