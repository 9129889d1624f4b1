#pragma once
// The way back from base64, for tests.

#include <string>
#include <string_view>

namespace evictsim::test {

/// RFC 4648, with padding.
inline std::string base64_decoded(std::string_view text) {
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned group = 0, bits = 0;
  for (const char letter : text) {
    if (letter == '=') break;
    group = (group << 6U | static_cast<unsigned>(letters.find(letter))) & 0xffffU;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(group >> bits & 255U);
  }
  return bytes;
}

}  // namespace evictsim::test
