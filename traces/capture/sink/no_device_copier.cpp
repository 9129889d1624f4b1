// The device path of a build without CUDA.
#include "traces/capture/row_batch.h"

namespace evictsim::traces::capture {

std::unique_ptr<DeviceCopier> make_device_copier(RowReceiver&, const DeviceOptions&) {
  throw Error(
      ErrorCode::unsupported,
      "this build reads host memory only; configure it with EVICTSIM_CUDA for device tensors, or push copies in "
      "host memory");
}

}  // namespace evictsim::traces::capture
