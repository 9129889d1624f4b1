#pragma once
/// \file
/// How a report's data is written down for the page: JSON, with long arrays as base64. Layout: docs/report.md, "Data".

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace evictsim::analysis {

using Json = nlohmann::ordered_json;

/// RFC 4648, with padding.
std::string base64(std::span<const std::uint8_t> bytes);

/// float32 in four byte planes: the first bytes of all elements, then the second ones, ...; NaN is not available.
/// Values are rounded to 12 bits of mantissa (1.2e-4 relative), so that the low planes compress to nothing.
Json real_array(const std::vector<std::size_t>& shape, std::span<const double> values);
Json byte_array(const std::vector<std::size_t>& shape, std::span<const std::uint8_t> values);
Json integer_array(const std::vector<std::size_t>& shape, std::span<const std::int32_t> values);
/// `bytes`: rows of the last axis, packed eight to a byte, lowest bit first; `shape` counts bits.
Json bit_array(const std::vector<std::size_t>& shape, std::span<const std::uint8_t> bytes);

/// The number, or null where it is not finite.
Json number(double value);
/// `text` as valid UTF-8: what is not becomes U+FFFD, and what is longer than `most_bytes` ends in "…[1048576 bytes]".
std::string shown_text(std::string_view text, std::size_t most_bytes);
/// In one line of ASCII that may stand inside a <script> element: `<`, `>` and `&` are escaped, and so is everything
/// that is not printable ASCII.
std::string to_text(const Json& json);

}  // namespace evictsim::analysis
