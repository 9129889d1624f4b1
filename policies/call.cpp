#include "policies/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "policies/formula/parser.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr int deepest_nesting = 32;  // far more than any policy has; keeps hostile text off the stack's end

bool is_blank(char character) {
  return character == ' ' || character == '\t' || character == '\n' || character == '\r';
}

bool is_word(char character) {
  return static_cast<unsigned char>(character) > 0x20 && character != 0x7f &&
         std::string_view("(),=@'\"").find(character) == std::string_view::npos;
}

class CallParser {
 public:
  CallParser(std::string_view text, TrailingComma trailing_comma)
      : text_(text), trailing_comma_(trailing_comma == TrailingComma::allowed) {}

  Call parse() {
    Call call = value(0);
    skip_blanks();
    if (place_ < text_.size()) fail(fmt::format("'{}' does not belong here", text_[place_]));
    return call;
  }

 private:
  Call value(int depth) {
    Call call = bare_value(depth);
    skip_blanks();
    if (!call.quoted && at('@')) {
      ++place_;
      call.placement.push_back(bare_value(depth + 1));
    }
    return call;
  }

  Call bare_value(int depth) {
    if (depth > deepest_nesting) fail("nested too deep");
    skip_blanks();
    Call call;
    call.place = place_;
    if (at('\'') || at('"')) {
      call.quoted = true;
      call.name = quoted();
      return call;
    }
    while (place_ < text_.size() && is_word(text_[place_])) call.name += text_[place_++];
    if (call.name.empty()) {
      fail(place_ < text_.size() ? fmt::format("a name or value expected, not '{}'", text_[place_])
                                 : std::string("a name or value expected"));
    }
    skip_blanks();
    if (!at('(')) return call;
    ++place_;
    call.called = true;
    skip_blanks();
    if (at(')')) {
      ++place_;
      return call;
    }
    for (;;) {
      call.arguments.push_back(argument(depth));
      if (call.arguments.size() > 1 && call.arguments.back().key.empty() &&
          !call.arguments[call.arguments.size() - 2].key.empty()) {
        place_ = call.arguments.back().value.place;
        fail("a positional argument cannot follow a named one");
      }
      skip_blanks();
      if (at(',')) {
        ++place_;
        skip_blanks();
        if (!trailing_comma_ || !at(')')) continue;
      }
      if (at(')')) {
        ++place_;
        return call;
      }
      fail(place_ < text_.size() ? fmt::format("',' or ')' expected, not '{}'", text_[place_])
                                 : fmt::format("')' of '{}(' is missing", call.name));
    }
  }

  Argument argument(int depth) {
    Argument argument{.key = {}, .value = value(depth + 1)};
    skip_blanks();
    if (!at('=')) return argument;
    if (argument.value.called || !argument.value.placement.empty()) fail("a key is a plain word");
    ++place_;
    argument.key = std::move(argument.value.name);
    argument.value = value(depth + 1);
    return argument;
  }

  std::string quoted() {
    const char quote = text_[place_];
    const std::size_t start = place_++;
    std::string content;
    while (place_ < text_.size() && text_[place_] != quote) {
      if (text_[place_] == '\\' && place_ + 1 < text_.size()) ++place_;
      content += text_[place_++];
    }
    if (place_ == text_.size()) {
      place_ = start;
      fail("the quote is not closed");
    }
    ++place_;
    return content;
  }

  [[nodiscard]] bool at(char character) const { return place_ < text_.size() && text_[place_] == character; }
  void skip_blanks() {
    while (place_ < text_.size() && is_blank(text_[place_])) ++place_;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::invalid_argument, fmt::format("character {}: {}", place_ + 1, what),
                {.parameter = policy_option, .value = std::string(text_)});
  }

  std::string_view text_;
  bool trailing_comma_;
  std::size_t place_ = 0;
};

}  // namespace

bool is_composition_key(std::string_view key) {
  constexpr std::array keys = {"scorer", "allocator", "schedule", "protection", "placement", "budget"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

Call parse_call(std::string_view text, TrailingComma trailing_comma) {
  return CallParser(text, trailing_comma).parse();
}

std::string quote_word(std::string_view text) {
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_word)) return std::string(text);
  std::string quoted = "'";
  for (const char character : text) {
    if (character == '\'' || character == '\\') quoted += '\\';
    quoted += character;
  }
  return quoted + "'";
}

std::vector<std::string> split_list(std::string_view list) {
  const auto fail = [&](std::size_t place, const char* what) {
    throw Error(ErrorCode::invalid_argument, fmt::format("character {}: {}", place + 1, what),
                {.parameter = policy_option, .value = std::string(list)});
  };
  std::vector<std::string> items;
  std::string item;
  int depth = 0;
  char quote = 0;
  for (std::size_t place = 0; place <= list.size(); ++place) {
    const char character = place < list.size() ? list[place] : ',';
    const bool unclosed = place == list.size() && (depth > 0 || quote != 0);
    const bool unopened = quote == 0 && character == ')' && depth == 0;
    if ((unclosed || unopened) && item.starts_with(formula::prefix)) {
      // The rest belongs to the formula, whose parser marks the place.
      items.push_back(item.append(list.substr(place)));
      return items;
    }
    if (unclosed) fail(place, depth > 0 ? "')' is missing" : "the quote is not closed");
    if (unopened) fail(place, "')' without '('");
    if (quote != 0) {
      if (character == '\\' && place + 1 < list.size()) {
        item += character;
        item += list[++place];
        continue;
      }
      if (character == quote) quote = 0;
    } else if (character == '\'' || character == '"') {
      quote = character;
    } else if (character == '(') {
      ++depth;
    } else if (character == ')') {
      --depth;
    } else if (character == ',' && depth == 0) {
      while (!item.empty() && is_blank(item.back())) item.pop_back();
      if (item.empty()) fail(place, "an item is empty");
      items.push_back(std::exchange(item, {}));
      continue;
    }
    if (!item.empty() || !is_blank(character)) item += character;
  }
  return items;
}

}  // namespace evictsim::policies
