#include "analysis/report/page/page.h"

#include <charconv>
#include <cstdint>
#include <span>

#include "analysis/report/encoding.h"
#include "analysis/report/page/page_parts.h"
#include "traces/checksum.h"

namespace evictsim::analysis {

namespace {

/// What a content security policy calls the text of an element.
std::string policy_hash(std::string_view text) {
  const std::string digits = traces::sha256(std::as_bytes(std::span(text)));
  std::vector<std::uint8_t> bytes(digits.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::from_chars(digits.data() + 2 * i, digits.data() + 2 * i + 2, bytes[i], 16);
  }
  return "sha256-" + base64(bytes);
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else {
      result += c;
    }
  }
  return result;
}

/// The markup with every `@NAME@` that is ours replaced. What is put in is not searched again.
std::string assembled() {
  const std::vector<std::pair<std::string_view, std::string>> parts = {
      {"@SCRIPT_HASH@", policy_hash(page_parts::script)}, {"@STYLE_HASH@", policy_hash(page_parts::style)},
      {"@STYLE@", std::string(page_parts::style)},        {"@LICENCES@", escaped(page_parts::licences)},
      {"@SCRIPT@", std::string(page_parts::script)},
  };
  std::string page;
  std::string_view rest = page_parts::markup;
  for (const auto& [name, text] : parts) {
    const std::size_t place = rest.find(name);
    page += rest.substr(0, place);
    page += text;
    rest.remove_prefix(place + name.size());
  }
  page += rest;
  return page;
}

}  // namespace

std::string_view page_template() {
  static const std::string page = assembled();
  return page;
}

std::string_view page_template_hint() { return {}; }

}  // namespace evictsim::analysis
