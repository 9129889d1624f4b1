#pragma once
/// \file
/// Names parts of a prompt: a span is given as a snippet of the prompt's text or as a range of its tokens.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "traces/header.h"

namespace evictsim::traces::capture {

/// "evidence=the snippet" or "evidence=tokens:12:20" as given by a user.
struct SpanRequest {
  std::string kind;     ///< one of `span_kinds`
  std::string snippet;  ///< empty when a token range was given
  Span tokens;
};

/// Throws Error(invalid_argument) naming the kind or range that is wrong.
SpanRequest parse_span(std::string_view text);

/// The token ranges of `requests` in a prompt whose tokens have the texts `pieces`; ascending within a kind. A token
/// belongs to a snippet when they share a byte. Throws Error(invalid_argument) when a snippet occurs not exactly once
/// or a range leaves the prompt.
std::map<std::string, std::vector<Span>> locate_spans(const std::vector<SpanRequest>& requests,
                                                      const std::vector<std::string>& pieces);

}  // namespace evictsim::traces::capture
