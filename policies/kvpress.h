#pragma once
/// \file
/// Presses of the kvpress library as they are written there, mapped onto our parts. Names, order and defaults of
/// arguments follow kvpress 0.5.5.

#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

/// The policy text of a press such as `SnapKVPress(window_size=16,kernel_size=7)` or
/// `AdaKVPress(SnapKVPress(0.5),alpha_safeguard=0.5)`; Python literals True, False, None. A `compression_ratio` becomes
/// `budget=1 - ratio` in double precision, DecodingPress' `target_size` a budget in entries. Throws Error:
/// unknown_name for a class or argument that kvpress does not have, unsupported for a press without counterpart here,
/// invalid_argument for a value of the wrong kind.
std::string press_to_policy(std::string_view text);

/// Classes that press_to_policy maps, in alphabetical order.
std::vector<std::string> mapped_presses();

}  // namespace evictsim::policies
