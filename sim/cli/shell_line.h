#pragma once
/// \file
/// Command lines as result files record them.

#include <string>
#include <vector>

namespace evictsim {

/// `words` as one line that a shell would take apart into them again.
std::string shell_line(const std::vector<std::string>& words);

}  // namespace evictsim
