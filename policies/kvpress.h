#pragma once
/// \file
/// Presses of the kvpress library as they are written there, mapped onto our parts. Names, order and defaults of
/// arguments follow kvpress 0.5.5.

#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

/// Marks a policy as a press: `kvpress:SnapKVPress()`.
inline constexpr std::string_view press_prefix = "kvpress:";

/// The policy text of a press such as `SnapKVPress(window_size=16,kernel_size=7)` or
/// `AdaKVPress(SnapKVPress(0.5),alpha_safeguard=0.5)`; Python literals True, False, None, 1_000; trailing commas. A
/// `compression_ratio` becomes `budget=1 - ratio` in double precision, DecodingPress' `target_size` a budget in
/// entries. Throws Error: unknown_name for a class or argument that kvpress does not have, unsupported for a press
/// without counterpart here, invalid_argument for a value of the wrong kind or out of range; errors name presses and
/// arguments as kvpress does.
std::string press_to_policy(std::string_view text);

/// The class of kvpress 0.5.5, mapped or not, that `name` is ("SnapKVPress", "kvpress.SnapKVPress"); else empty.
std::string press_named(std::string_view name);

/// Classes that press_to_policy maps, in alphabetical order.
std::vector<std::string> mapped_presses();

}  // namespace evictsim::policies
