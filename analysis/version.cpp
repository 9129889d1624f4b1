#include "analysis/version.h"

namespace evictsim::analysis {

const char* version() noexcept { return EVICTSIM_VERSION; }

}  // namespace evictsim::analysis
