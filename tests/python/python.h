#pragma once
/// \file
/// Running Python scripts from tests.

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

}  // namespace evictsim::test
