#pragma once
/// \file
/// Plug-ins: shared objects whose parts register themselves with a program that is already built. docs/plugins.md.
///
/// A plug-in is compiled against the installed headers and the target evictsim::plugin, and linked with none of our
/// libraries: what it uses it finds in the program that loads it, which must export its symbols (`evictsim` does).

#include <filesystem>
#include <string_view>
#include <vector>

#include "models/matrix.h"

#define EVICTSIM_PLUGIN_TEXT_OF(value) #value
#define EVICTSIM_PLUGIN_TEXT(value) EVICTSIM_PLUGIN_TEXT_OF(value)

#if defined(_GLIBCXX_RELEASE) && defined(_GLIBCXX_DEBUG)
#define EVICTSIM_PLUGIN_LIBRARY "libstdc++ of version " EVICTSIM_PLUGIN_TEXT(_GLIBCXX_RELEASE) " with debug containers"
#elif defined(_GLIBCXX_RELEASE)
#define EVICTSIM_PLUGIN_LIBRARY \
  "libstdc++ of version " EVICTSIM_PLUGIN_TEXT(_GLIBCXX_RELEASE) "." EVICTSIM_PLUGIN_TEXT(_GLIBCXX_USE_CXX11_ABI)
#else
#define EVICTSIM_PLUGIN_LIBRARY "another standard library"
#endif

/// How an ABI text starts, by which it is found in a file.
#define EVICTSIM_PLUGIN_MARK "evictsim plug-in ABI: "
/// What must agree between a plug-in and the program: the version of evictsim (EVICTSIM_PLUGIN_VERSION, set by the
/// target evictsim::plugin) and what the memory layout of objects that cross the border depends on.
#define EVICTSIM_PLUGIN_ABI \
  EVICTSIM_PLUGIN_MARK "evictsim " EVICTSIM_PLUGIN_VERSION ", C++ ABI " EVICTSIM_PLUGIN_TEXT(                \
      __GXX_ABI_VERSION) ", " EVICTSIM_PLUGIN_LIBRARY ", Eigen " EVICTSIM_PLUGIN_TEXT(EIGEN_WORLD_VERSION) \
  "." EVICTSIM_PLUGIN_TEXT(EIGEN_MAJOR_VERSION) "." EVICTSIM_PLUGIN_TEXT(EIGEN_MINOR_VERSION) " aligned to " \
  EVICTSIM_PLUGIN_TEXT(EIGEN_MAX_ALIGN_BYTES)

/// Once per plug-in, at file scope, without a semicolon: makes the shared object one.
#define EVICTSIM_PLUGIN                                                           \
  extern "C" {                                                                    \
  extern __attribute__((visibility("default"))) const char evictsim_plugin_abi[]; \
  const char evictsim_plugin_abi[] = EVICTSIM_PLUGIN_ABI;                         \
  }

namespace evictsim::policies {

/// The ABI text that plug-ins of this build must hold.
std::string_view plugin_abi() noexcept;

/// Loads a plug-in for the rest of the program's life; its parts are registered then. One loaded before is left alone.
/// Not while policies are parsed or replayed in other threads. Throws Error: file_not_found; unsupported for a file
/// that is no plug-in, cannot be loaded or registers nothing; unsupported_version for another ABI, before any of its
/// code runs; invalid_argument where a part cannot be registered.
void load_plugin(const std::filesystem::path& file);

}  // namespace evictsim::policies
