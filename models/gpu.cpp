#include "models/gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "models/data_files.h"
#include "models/json_fields.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

using Json = nlohmann::ordered_json;
using Range = JsonFields::Range;

constexpr const char* format_name = "evictsim-gpu";
constexpr int format_version = 1;
constexpr std::array<std::string_view, 7> arithmetic_types = {"f32", "tf32", "f16", "bf16", "fp8", "fp4", "int8"};

/// Transfers by the name of their field.
constexpr std::array<std::pair<const char*, std::optional<TransferRate> Gpu::*>, 5> transfers = {{
    {"host_to_device", &Gpu::host_to_device},
    {"device_to_host", &Gpu::device_to_host},
    {"host_to_device_pageable", &Gpu::host_to_device_pageable},
    {"device_to_host_pageable", &Gpu::device_to_host_pageable},
    {"peer", &Gpu::peer},
}};

TransferRate read_transfer(JsonFields fields) {
  TransferRate rate{fields.optional_number("latency_seconds", Range::not_negative),
                    fields.number("bytes_per_second", Range::positive),
                    fields.optional_number("largest_relative_error", Range::not_negative)};
  fields.finish();
  return rate;
}

DecodeAttentionRate read_decode_attention(JsonFields fields) {
  DecodeAttentionRate rate;
  rate.element = fields.text("element");
  rate.group_size = fields.count("group_size");
  rate.head_dim = fields.count("head_dim");
  rate.launch_seconds = fields.number("launch_seconds", Range::not_negative);
  rate.seconds_per_entry = fields.number("seconds_per_entry", Range::not_negative);
  rate.seconds_per_page = fields.number("seconds_per_page", Range::not_negative);
  rate.seconds_per_longest_entry = fields.number("seconds_per_longest_entry", Range::not_negative);
  rate.largest_relative_error = fields.optional_number("largest_relative_error", Range::not_negative);
  fields.finish();
  return rate;
}

EngineSteps read_engine_steps(JsonFields fields) {
  EngineSteps steps;
  steps.steps = fields.whole("steps", Range::positive);
  steps.span_seconds = fields.number("span_seconds", Range::positive);
  steps.idle_seconds = fields.number("idle_seconds", Range::not_negative);
  steps.attention_seconds = fields.number("attention_seconds", Range::not_negative);
  steps.gemm_seconds = fields.number("gemm_seconds", Range::not_negative);
  steps.collective_seconds = fields.number("collective_seconds", Range::not_negative);
  steps.other_seconds = fields.number("other_seconds", Range::not_negative);
  fields.finish();
  return steps;
}

Measurement read_measurement(JsonFields fields) {
  Measurement point;
  point.quantity = fields.text("quantity");
  JsonFields conditions = fields.object("conditions");
  for (const std::string& key : conditions.keys()) point.conditions[key] = conditions.number(key, Range::not_negative);
  point.seconds = fields.number("seconds", Range::positive);
  point.spread_seconds = fields.number("spread_seconds", Range::not_negative);
  point.samples = fields.whole("samples", Range::positive);
  point.outliers = fields.whole("outliers", Range::not_negative);
  fields.finish();
  return point;
}

void read_memory(JsonFields fields, Gpu& gpu) {
  gpu.memory_bytes = fields.whole("bytes", Range::positive);
  gpu.visible_bytes = fields.optional_whole("visible_bytes", Range::positive);
  gpu.memory_bytes_per_second = fields.number("read_bytes_per_second", Range::positive);
  gpu.l2_bytes = fields.optional_whole("l2_bytes", Range::positive);
  fields.finish();
}

Json json_of(const TransferRate& rate) {
  Json object;
  if (rate.latency_seconds) object["latency_seconds"] = *rate.latency_seconds;
  object["bytes_per_second"] = rate.bytes_per_second;
  if (rate.largest_relative_error) object["largest_relative_error"] = *rate.largest_relative_error;
  return object;
}

Json json_of(const DecodeAttentionRate& rate) {
  Json object = {{"element", rate.element},
                 {"group_size", rate.group_size},
                 {"head_dim", rate.head_dim},
                 {"launch_seconds", rate.launch_seconds},
                 {"seconds_per_entry", rate.seconds_per_entry},
                 {"seconds_per_page", rate.seconds_per_page},
                 {"seconds_per_longest_entry", rate.seconds_per_longest_entry}};
  if (rate.largest_relative_error) object["largest_relative_error"] = *rate.largest_relative_error;
  return object;
}

Json json_of(const EngineSteps& steps) {
  return {{"steps", steps.steps},
          {"span_seconds", steps.span_seconds},
          {"idle_seconds", steps.idle_seconds},
          {"attention_seconds", steps.attention_seconds},
          {"gemm_seconds", steps.gemm_seconds},
          {"collective_seconds", steps.collective_seconds},
          {"other_seconds", steps.other_seconds}};
}

Json json_of(const Measurement& point) {
  Json conditions = Json::object();
  for (const auto& [name, value] : point.conditions) conditions[name] = value;
  return {{"quantity", point.quantity}, {"conditions", conditions},
          {"seconds", point.seconds},   {"spread_seconds", point.spread_seconds},
          {"samples", point.samples},   {"outliers", point.outliers}};
}

Json json_of(const Gpu& gpu) {
  Json object = {{"format", format_name},
                 {"version", format_version},
                 {"name", gpu.name},
                 {"product", gpu.product},
                 {"origin", gpu.measured ? "measured" : "datasheet"},
                 {"sources", gpu.sources}};
  if (!gpu.aliases.empty()) object["aliases"] = gpu.aliases;
  if (!gpu.device_names.empty()) object["device_names"] = gpu.device_names;
  if (!gpu.compute_capability.empty()) object["compute_capability"] = gpu.compute_capability;
  if (gpu.multiprocessors) object["multiprocessors"] = *gpu.multiprocessors;
  Json memory = {{"bytes", gpu.memory_bytes}};
  if (gpu.visible_bytes) memory["visible_bytes"] = *gpu.visible_bytes;
  memory["read_bytes_per_second"] = gpu.memory_bytes_per_second;
  if (gpu.l2_bytes) memory["l2_bytes"] = *gpu.l2_bytes;
  object["memory"] = memory;
  if (!gpu.flops_per_second.empty()) object["flops_per_second"] = gpu.flops_per_second;
  for (const auto& [key, member] : transfers) {
    if (gpu.*member) object[key] = json_of(*(gpu.*member));
  }
  if (gpu.decode_attention) object["decode_attention"] = json_of(*gpu.decode_attention);
  if (gpu.engine_steps) object["engine_steps"] = json_of(*gpu.engine_steps);
  for (const Measurement& point : gpu.measurements) object["measurements"].push_back(json_of(point));
  return object;
}

}  // namespace

Gpu read_gpu(const std::filesystem::path& file) {
  const nlohmann::json root = parse_json_file(file);
  JsonFields fields(root, file.string());
  fields.expect_format(format_name, format_version);
  Gpu gpu;
  gpu.name = fields.text("name");
  gpu.product = fields.text("product");
  const std::string origin = fields.text("origin");
  if (origin != "measured" && origin != "datasheet") fields.refuse("origin", "must be \"measured\" or \"datasheet\"");
  gpu.measured = origin == "measured";
  gpu.sources = fields.texts("sources");
  if (gpu.sources.empty()) fields.refuse("sources", "must say where the figures come from");
  if (fields.has("aliases")) gpu.aliases = fields.texts("aliases");
  if (fields.has("device_names")) gpu.device_names = fields.texts("device_names");
  if (fields.has("compute_capability")) gpu.compute_capability = fields.text("compute_capability");
  if (fields.has("multiprocessors")) gpu.multiprocessors = fields.count("multiprocessors");
  read_memory(fields.object("memory"), gpu);
  if (fields.has("flops_per_second")) {
    JsonFields rates = fields.object("flops_per_second");
    for (const std::string_view type : arithmetic_types) {
      const std::string key(type);
      if (rates.has(key)) gpu.flops_per_second[key] = rates.number(key, Range::positive);
    }
    rates.finish();
  }
  for (const auto& [key, member] : transfers) {
    if (fields.has(key)) gpu.*member = read_transfer(fields.object(key));
  }
  if (fields.has("decode_attention")) gpu.decode_attention = read_decode_attention(fields.object("decode_attention"));
  if (fields.has("engine_steps")) gpu.engine_steps = read_engine_steps(fields.object("engine_steps"));
  if (fields.has("measurements")) {
    for (JsonFields& point : fields.objects("measurements"))
      gpu.measurements.push_back(read_measurement(std::move(point)));
  }
  fields.finish();
  return gpu;
}

void write_gpu(const std::filesystem::path& file, const Gpu& gpu) { write_json_file(file, json_of(gpu), 2); }

Gpu find_gpu(const std::string& name) {
  const std::vector<std::string> names = data_names("gpus");
  const bool is_path = name.find('/') != std::string::npos || name.ends_with(".json");
  if (!is_path && std::find(names.begin(), names.end(), name) == names.end()) {
    for (const std::string& other : names) {
      Gpu gpu = read_gpu(find_data_file("gpus", other));
      if (std::find(gpu.aliases.begin(), gpu.aliases.end(), name) != gpu.aliases.end()) return gpu;
    }
  }
  return read_gpu(find_data_file("gpus", name));
}

std::optional<Gpu> find_gpu_of_device(const std::string& device_name) {
  for (const std::string& name : data_names("gpus")) {
    Gpu gpu = find_gpu(name);
    if (std::find(gpu.device_names.begin(), gpu.device_names.end(), device_name) != gpu.device_names.end()) return gpu;
  }
  return std::nullopt;
}

}  // namespace evictsim::models
