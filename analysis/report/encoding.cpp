#include "analysis/report/encoding.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "analysis/utf8.h"

namespace evictsim::analysis {
namespace {

constexpr unsigned dropped_bits = 11;

/// Rounded to nearest, ties to even; every NaN becomes the same one.
std::uint32_t shortened(double value) {
  constexpr std::uint32_t nan = 0x7fc00000U, infinity = 0x7f800000U;
  const auto narrow = static_cast<float>(value);
  if (std::isnan(narrow)) return nan;
  const auto bits = std::bit_cast<std::uint32_t>(narrow);
  if ((bits & infinity) == infinity) return bits;
  const std::uint32_t rest = (1U << dropped_bits) - 1, half = 1U << (dropped_bits - 1);
  const std::uint32_t odd = (bits >> dropped_bits) & 1U;
  const std::uint32_t rounded = (bits + half - 1 + odd) & ~rest;
  return (rounded & infinity) == infinity ? bits & ~rest : rounded;
}

Json array(const char* type, const std::vector<std::size_t>& shape, std::span<const std::uint8_t> bytes) {
  return {{"type", type}, {"shape", shape}, {"data", base64(bytes)}};
}

}  // namespace

std::string base64(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t there = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = group << 8U | (k < there ? bytes[i + k] : 0U);
    for (std::size_t k = 0; k < 4; ++k) text += k <= there ? letters[group >> (18 - 6 * k) & 63U] : '=';
  }
  return text;
}

Json real_array(const std::vector<std::size_t>& shape, std::span<const double> values) {
  std::vector<std::uint8_t> planes(values.size() * 4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t bits = shortened(values[i]);
    for (std::size_t k = 0; k < 4; ++k) planes[k * values.size() + i] = static_cast<std::uint8_t>(bits >> 8 * k);
  }
  return array("f32", shape, planes);
}

Json byte_array(const std::vector<std::size_t>& shape, std::span<const std::uint8_t> values) {
  return array("u8", shape, values);
}

Json integer_array(const std::vector<std::size_t>& shape, std::span<const std::int32_t> values) {
  std::vector<std::uint8_t> bytes;
  for (const std::int32_t value : values) {
    for (unsigned k = 0; k < 4; ++k)
      bytes.push_back(static_cast<std::uint8_t>(static_cast<std::uint32_t>(value) >> 8 * k));
  }
  return array("i32", shape, bytes);
}

Json bit_array(const std::vector<std::size_t>& shape, std::span<const std::uint8_t> bytes) {
  return array("bits", shape, bytes);
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

std::string shown_text(std::string_view text, std::size_t most_bytes) {
  constexpr std::string_view replacement = "\xef\xbf\xbd";
  const bool whole = text.size() <= most_bytes;
  const std::string_view shown = whole ? text : text.substr(0, most_bytes);
  std::string valid;
  for (std::size_t at = 0; at < shown.size();) {
    // A character cut in two at the end is left out rather than shown as a fault of the text.
    if (!whole && at + 4 > shown.size() && at + character_length(text, at) > shown.size()) break;
    const std::size_t length = character_length(shown, at);
    valid += length == 0 ? replacement : shown.substr(at, length);
    at += std::max<std::size_t>(length, 1);
  }
  if (!whole) valid += fmt::format("…[{} bytes]", text.size());
  return valid;
}

std::string to_text(const Json& json) {
  const std::string plain = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string text;
  text.reserve(plain.size());
  for (const char letter : plain) {
    if (letter == '<' || letter == '>' || letter == '&') {
      text += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(letter)));
    } else {
      text += letter;
    }
  }
  return text;
}

}  // namespace evictsim::analysis
