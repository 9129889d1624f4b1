#include "analysis/report/token_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Longer tokens are shortened for the page.
constexpr std::size_t most_token_bytes = 64;

/// A sequence of a trace, and what is missing of it.
struct Source {
  const traces::Reader* reader = nullptr;
  std::size_t sequence = 0;
  std::string why_not;
};

Source source_of(const PointGrid& grid, const std::vector<FoundTrace>& traces, std::size_t sequence) {
  const RunRow& row = grid.contents().rows[grid.sequences()[sequence]];
  const auto& inputs = grid.contents().provenance.inputs;
  for (std::size_t i = 0; i < inputs.size() && i < traces.size(); ++i) {
    if (inputs[i].path != row.trace) continue;
    if (traces[i].reader == nullptr) return {nullptr, 0, traces[i].why_not};
    const auto& sequences = traces[i].reader->sequences();
    for (std::size_t place = 0; place < sequences.size(); ++place) {
      if (sequences[place].name == row.sequence) return {traces[i].reader, place, {}};
    }
    return {nullptr, 0, fmt::format("the trace holds no sequence {}", row.sequence)};
  }
  return {nullptr, 0, "the run does not say from which trace it is"};
}

/// One text per token of the prompt; null where the trace has none.
Json texts_of(const Source& source, std::size_t length) {
  const auto& texts = source.reader->sequences()[source.sequence].token_texts;
  if (!texts) return {};
  Json json = Json::array();
  for (std::size_t token = 0; token < std::min(length, texts->size()); ++token) {
    json.push_back(shown_text((*texts)[token], most_token_bytes));
  }
  return json;
}

Json spans_of(const traces::SequenceInfo& info, std::size_t length) {
  Json json = Json::array();
  for (const auto& [kind, spans] : info.spans) {
    for (const traces::Span& span : spans) {
      const auto end = std::min<std::int64_t>(span.last, static_cast<std::int64_t>(length));
      if (span.first < end) json.push_back({{"kind", kind}, {"begin", span.first}, {"end", end}});
    }
  }
  return json;
}

Json sequence_json(const TokenMaps& maps, const Source& source) {
  const std::vector<std::size_t> shape = {maps.policies.size(), maps.budgets.size(), maps.length};
  const auto array = [&](const std::vector<double>& values) {
    return values.empty() ? Json() : real_array(shape, values);
  };
  Json json = {{"sequence", maps.sequence}, {"length", maps.length},     {"text", nullptr},
               {"spans", Json::array()},    {"policies", maps.policies}, {"budgets", maps.budgets},
               {"kept", array(maps.kept)},  {"lost", array(maps.lost)},  {"premature", array(maps.premature)},
               {"heads", nullptr}};
  if (source.reader != nullptr) {
    json["text"] = texts_of(source, maps.length);
    json["spans"] = spans_of(source.reader->sequences()[source.sequence], maps.length);
  }
  if (!maps.bits.empty()) {
    json["heads"] = {{"layers", maps.layers},
                     {"heads", maps.heads},
                     {"policies", maps.head_policies},
                     {"budgets", maps.head_budgets},
                     {"kept", bit_array({maps.head_policies.size(), maps.head_budgets.size(), maps.layers.size(),
                                         maps.heads, maps.length},
                                        maps.bits)}};
  }
  return json;
}

}  // namespace

Json tokens_json(const PointGrid& grid, const RunReader& reader, const std::vector<FoundTrace>& traces,
                 const std::function<void(const char* part, const std::string& why)>& miss) {
  std::size_t left_out = 0;
  const std::vector<TokenMaps> all = token_maps(grid, reader, {}, left_out);
  if (all.empty()) {
    miss("", "the run was made without --per entry: evictsim replay --per layer,head,entry says which tokens are kept");
    return {};
  }
  Json json = Json::array();
  std::string no_trace;
  bool no_text = false;
  bool heads = true, premature = true, spans = false;
  for (const TokenMaps& maps : all) {
    const Source source = source_of(grid, traces, maps.sequence);
    Json one = sequence_json(maps, source);
    if (source.reader == nullptr) {
      no_trace = source.why_not;
    } else {
      no_text = no_text || one["text"].is_null();
    }
    heads = heads && !one["heads"].is_null();
    premature = premature && !one["premature"].is_null();
    spans = spans || !one["spans"].empty();
    json.push_back(std::move(one));
  }
  if (!no_trace.empty()) {
    miss("text", no_trace + "; positions are shown instead");
  } else if (no_text) {
    miss("text", "the trace has no text of its tokens; positions are shown instead");
  }
  if (!heads) miss("heads", "the run was made without --per layer,head,entry, or holds too much to show here");
  if (!premature) miss("premature", "the sequences have no decode rows with queries");
  if (!spans) miss("spans", no_trace.empty() ? "the trace has no spans" : no_trace);
  if (left_out > 0) {
    miss("sequences",
         fmt::format("{} more {} too large to show here", left_out, left_out == 1 ? "sequence is" : "sequences are"));
  }
  return json;
}

}  // namespace evictsim::analysis
