#include "traces/capture/spans.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

[[noreturn]] void refuse(const std::string& message, std::string_view value) {
  throw Error(ErrorCode::invalid_argument, message, {.parameter = "span", .value = std::string(value)});
}

std::optional<std::int32_t> parse_number(std::string_view text) {
  std::int32_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Span find_snippet(const SpanRequest& request, const std::string& text, const std::vector<std::size_t>& ends) {
  const std::size_t first = text.find(request.snippet);
  if (first == std::string::npos)
    refuse(fmt::format("this snippet for '{}' does not occur in the prompt", request.kind), request.snippet);
  if (text.find(request.snippet, first + 1) != std::string::npos) {
    refuse(
        fmt::format("this snippet for '{}' occurs more than once; lengthen it or give tokens:FIRST:END", request.kind),
        request.snippet);
  }
  const std::size_t last = first + request.snippet.size() - 1;
  const auto token_at = [&](std::size_t byte) {
    return std::upper_bound(ends.begin(), ends.end(), byte) - ends.begin();
  };
  return {static_cast<std::int32_t>(token_at(first)), static_cast<std::int32_t>(token_at(last) + 1)};
}

}  // namespace

SpanRequest parse_span(std::string_view text) {
  constexpr std::string_view range_prefix = "tokens:";
  const std::size_t equals = text.find('=');
  SpanRequest request;
  request.kind = std::string(text.substr(0, equals));
  if (equals == std::string_view::npos ||
      std::find(span_kinds.begin(), span_kinds.end(), request.kind) == span_kinds.end()) {
    refuse(
        fmt::format("a span is KIND=SNIPPET or KIND=tokens:FIRST:END with KIND one of {}", fmt::join(span_kinds, ", ")),
        text);
  }
  const std::string_view value = text.substr(equals + 1);
  if (value.empty()) refuse("the snippet of a span is empty", text);
  if (!value.starts_with(range_prefix)) {
    request.snippet = std::string(value);
    return request;
  }
  const std::string_view range = value.substr(range_prefix.size());
  const std::size_t colon = range.find(':');
  const auto first = parse_number(range.substr(0, colon));
  const auto last = colon == std::string_view::npos ? std::nullopt : parse_number(range.substr(colon + 1));
  if (!first || !last || *first < 0 || *last <= *first) {
    refuse("a token range is tokens:FIRST:END, END excluded and larger than FIRST", text);
  }
  request.tokens = {*first, *last};
  return request;
}

std::map<std::string, std::vector<Span>> locate_spans(const std::vector<SpanRequest>& requests,
                                                      const std::vector<std::string>& pieces) {
  std::string text;
  std::vector<std::size_t> ends;  // [tokens] byte behind every token
  for (const std::string& piece : pieces) {
    text += piece;
    ends.push_back(text.size());
  }
  std::map<std::string, std::vector<Span>> spans;
  for (const SpanRequest& request : requests) {
    Span span = request.tokens;
    if (!request.snippet.empty()) {
      span = find_snippet(request, text, ends);
    } else if (static_cast<std::size_t>(span.last) > pieces.size()) {
      refuse(fmt::format("the range leaves the prompt of {} tokens", pieces.size()),
             fmt::format("tokens:{}:{}", span.first, span.last));
    }
    spans[request.kind].push_back(span);
  }
  for (auto& [kind, ranges] : spans) {
    std::sort(ranges.begin(), ranges.end(), [](const Span& a, const Span& b) { return a.first < b.first; });
  }
  return spans;
}

}  // namespace evictsim::traces::capture
