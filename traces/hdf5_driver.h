#pragma once
/// \file
/// How HDF5 reaches the files that we write. Its own file layer lets a failed write (a full disk) turn into a crash
/// when the process ends, since a file that cannot be flushed cannot be closed. Internal to traces/.

#include "traces/hdf5_handle.h"

namespace evictsim::traces::hdf5 {

/// A driver that writes to a POSIX file until a write fails. That call and every later H5Fflush fail, so the loss
/// cannot be overlooked; but what HDF5 still wants to write goes to memory, so that the file, which is of no use any
/// more, can be closed. Registered once.
hid_t output_driver();

}  // namespace evictsim::traces::hdf5
