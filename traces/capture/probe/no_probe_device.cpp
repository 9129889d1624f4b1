#include "traces/capture/probe/probe_device.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

std::unique_ptr<ProbeDevice> open_probe_device(int /*device*/) {
  throw Error(ErrorCode::unsupported,
              "this evictsim-capture was built without CUDA and cannot probe a device (build it with cmake --preset "
              "cuda, which needs the CUDA Toolkit)");
}

}  // namespace evictsim::traces::capture
