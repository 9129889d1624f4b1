#pragma once
/// \file
/// What HDF5 does when a program ends.

namespace evictsim::traces {

/// For programs that close their files themselves, before anything else is called: HDF5 does not close its library at
/// exit, where what a damaged file left half open would make it print to standard error.
void leave_hdf5_open_at_exit();

}  // namespace evictsim::traces
