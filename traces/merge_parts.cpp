#include "traces/merge_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "traces/manifest.h"

namespace evictsim::traces {
namespace {

int head_attribute(const Reader& reader, const char* name) {
  const auto& extra = reader.header().extra;
  const auto found = extra.find(name);
  if (found == extra.end()) {
    throw Error(ErrorCode::missing_data, "is needed to merge: it says which heads of the model the capture holds",
                {.file = reader.path().string(), .dataset = name, .parameter = {}, .value = {}});
  }
  const std::string& text = found->second;
  int value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc{} || end != text.data() + text.size() || value < 0 || value > 1 << 20) {
    throw Error(ErrorCode::invalid_value, "must be a head's index or a number of heads",
                {.file = reader.path().string(), .dataset = name, .parameter = {}, .value = text});
  }
  return value;
}

/// Attributes that every shard of every part must agree in, by name and as text. Heads differ between parts.
std::map<std::string, std::string> common_attributes(const Header& header) {
  std::map<std::string, std::string> all = {
      {"model", header.model},
      {"engine", header.engine},
      {"engine_version", header.engine_version},
      {"num_layers", std::to_string(header.num_layers)},
      {"head_dim", std::to_string(header.head_dim)},
      {"hidden_size", std::to_string(header.hidden_size)},
      {"vocab_size", std::to_string(header.vocab_size)},
      {"attention_scale", fmt::format("{}", header.attention_scale)},
      {"logit_softcap", fmt::format("{}", header.logit_softcap)},
      {"rope_theta", fmt::format("{}", header.rope_theta)},
      {"rope_attention_scaling", fmt::format("{}", header.rope_attention_scaling)},
      {"rope_layout", to_string(header.rope_layout)},
      {"rotary_dim", std::to_string(header.rotated())},
      {"norm_epsilon", header.norm_epsilon ? fmt::format("{}", *header.norm_epsilon) : ""},
      {"norm_kind", header.norm_kind ? to_string(*header.norm_kind) : ""},
      {"/model/layers", fmt::format("{}", fmt::join(header.layers, ","))},
      {"/model/inv_freq", fmt::format("{}", fmt::join(header.inv_freq, ","))},
      {"/model/sliding_window", fmt::format("{}", fmt::join(header.sliding_window, ","))},
  };
  for (const char* name : {all_query_heads_attribute, all_kv_heads_attribute}) all[name] = header.extra.at(name);
  return all;
}

}  // namespace

Error not_mergeable(const std::string& file, const std::string& dataset, const std::string& rule,
                    const std::string& value) {
  return {ErrorCode::invalid_argument, rule, {.file = file, .dataset = dataset, .parameter = {}, .value = value}};
}

void require_same_model(const Reader& first, const Reader& other) {
  const auto expected = common_attributes(first.header());
  for (const auto& [name, value] : common_attributes(other.header())) {
    if (value == expected.at(name)) continue;
    throw not_mergeable(other.path().string(), name,
                        fmt::format("must be {}, as in {}", expected.at(name), first.path().string()), value);
  }
}

Part open_part(const std::filesystem::path& path) {
  Part part{.name = path.string(), .readers = open_traces({path}), .requests = {}};
  if (part.readers.empty()) throw Error(ErrorCode::missing_data, "holds no sealed shard", {.file = part.name});
  const Reader& first = part.readers.front();
  part.first_query = head_attribute(first, first_query_head_attribute);
  part.first_kv = head_attribute(first, first_kv_head_attribute);
  part.all_queries = head_attribute(first, all_query_heads_attribute);
  part.all_kv = head_attribute(first, all_kv_heads_attribute);
  for (const Reader& reader : part.readers) {
    for (const char* name : head_attributes) static_cast<void>(head_attribute(reader, name));
    require_same_model(first, reader);
    const bool same_heads = head_attribute(reader, first_query_head_attribute) == part.first_query &&
                            head_attribute(reader, first_kv_head_attribute) == part.first_kv &&
                            reader.header().num_query_heads == first.header().num_query_heads &&
                            reader.header().num_kv_heads == first.header().num_kv_heads;
    if (!same_heads) throw not_mergeable(reader.path().string(), {}, "holds other heads than " + first.path().string());
    for (std::size_t sequence = 0; sequence < reader.sequences().size(); ++sequence) {
      const SequenceInfo& info = reader.sequences()[sequence];
      const std::string group = "/sequences/" + info.name;
      if (!info.request_id) {
        throw Error(ErrorCode::missing_data, "needs a request_id: requests of different parts are matched by it",
                    {.file = reader.path().string(), .dataset = group, .parameter = {}, .value = {}});
      }
      if (!part.requests.emplace(*info.request_id, Place{&reader, sequence}).second) {
        throw not_mergeable(reader.path().string(), group, "is there twice in this part", *info.request_id);
      }
    }
  }
  return part;
}

/// Parts in the order of their heads; these must be all of the model's.
void arrange(std::vector<Part>& parts) {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.first_query < b.first_query; });
  const int queries = parts.front().all_queries, kv = parts.front().all_kv;
  if (queries < 1 || kv < 1 || queries % kv != 0) {
    throw not_mergeable(parts.front().name, all_query_heads_attribute, "must be a multiple of the model's KV heads",
                        fmt::format("{} query heads, {} KV heads", queries, kv));
  }
  const int group = queries / kv;
  int reached = 0, reached_kv = 0;
  for (const Part& part : parts) {
    if (part.first_query != reached) {
      throw not_mergeable(part.name, {},
                          part.first_query > reached
                              ? fmt::format("no part holds query heads {} to {}", reached, part.first_query - 1)
                              : fmt::format("query head {} is in another part too", part.first_query));
    }
    reached = part.end_query();
    const bool fits = part.first_query / group >= part.first_kv && (reached - 1) / group < part.end_kv() &&
                      part.first_kv <= reached_kv && part.end_kv() <= kv;
    if (!fits) {
      throw not_mergeable(part.name, first_kv_head_attribute,
                          fmt::format("query heads {} to {} belong to KV heads {} to {}", part.first_query, reached - 1,
                                      part.first_query / group, (reached - 1) / group),
                          fmt::format("{} to {}", part.first_kv, part.end_kv() - 1));
    }
    reached_kv = std::max(reached_kv, part.end_kv());
  }
  if (reached != queries || reached_kv != kv) {
    throw not_mergeable(
        parts.back().name, {},
        fmt::format("the parts hold {} of {} query heads and {} of {} KV heads", reached, queries, reached_kv, kv));
  }
}

}  // namespace evictsim::traces
