#pragma once
/// \file
/// Running Python scripts from tests.

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace evictsim::test {

/// Debian's Python, which is the one that the package python3-h5py installs for. Its exit status, as std::system's.
inline int python(const std::string& arguments) { return std::system(("/usr/bin/python3 " + arguments).c_str()); }

/// Ends the program with the status that CTest takes for "skipped" where h5py is not there.
inline void skip_without_h5py() {
  if (python("-c 'import h5py, numpy' 2>/dev/null") == 0) return;
  std::puts("skipped: /usr/bin/python3 has no h5py (Debian package python3-h5py)");
  std::fflush(stdout);
  std::_Exit(77);
}

/// Runs a script, given by its path in the source tree, with the capture adapters and this build's library; its exit
/// status, as std::system's. Ends the program as "skipped" where torch and transformers are not installed.
inline int with_adapters(const std::string& script) {
  const std::string command = EVICTSIM_SOURCE_DIR "/tests/python/with_adapters.sh " EVICTSIM_BIN_DIR
                                                  "/../lib/libevictsim_capture.so " EVICTSIM_SOURCE_DIR "/" +
                              script;
  const int status = std::system(command.c_str());
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 77) return status;
  std::fflush(stdout);
  std::_Exit(77);
}

}  // namespace evictsim::test
