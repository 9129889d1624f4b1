#pragma once
/// \file
/// Which bytes are characters.

#include <cstddef>
#include <string_view>

namespace evictsim::analysis {

/// Bytes of the valid UTF-8 character that begins at `at`; 0: none does. `at` is below the size.
std::size_t character_length(std::string_view text, std::size_t at);

}  // namespace evictsim::analysis
