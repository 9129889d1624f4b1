#include "models/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "models/data_files.h"
#include "models/json_fields.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

using Json = nlohmann::ordered_json;
using Range = JsonFields::Range;

constexpr const char* format_name = "evictsim-engine";
constexpr int format_version = 1;

constexpr std::array<std::pair<std::string_view, ShareOf>, 3> shares = {
    {{"visible", ShareOf::visible}, {"resident", ShareOf::resident}, {"free", ShareOf::free}}};

constexpr std::array<EngineConstant, 19> constants_by_name = {{
    {"step_seconds", "host", &EngineConstants::step_seconds},
    {"layer_seconds", "host", &EngineConstants::layer_seconds},
    {"expert_layer_seconds", "host", &EngineConstants::expert_layer_seconds},
    {"collective_seconds", "host", &EngineConstants::collective_seconds},
    {"collective_doubling_seconds", "host", &EngineConstants::collective_doubling_seconds},
    {"sequence_seconds", "sequences", &EngineConstants::sequence_seconds},
    {"chunk_seconds", "chunks", &EngineConstants::chunk_seconds},
    {"weight_bandwidth_share", "weights", &EngineConstants::weight_bandwidth_share},
    {"routing_spread", "routing", &EngineConstants::routing_spread},
    {"expert_parallel_spread", "expert_parallel", &EngineConstants::expert_parallel_spread},
    {"kv_bandwidth_share", "kv", &EngineConstants::kv_bandwidth_share},
    {"gemm_flops_share", "gemm", &EngineConstants::gemm_flops_share},
    {"gemm_overlap", "overlap", &EngineConstants::gemm_overlap},
    {"attention_flops_share", "attention", &EngineConstants::attention_flops_share},
    {"link_bandwidth_share", "links", &EngineConstants::link_bandwidth_share},
    {"request_seconds", "requests", &EngineConstants::request_seconds},
    {"prefill_interference", "interference", &EngineConstants::prefill_interference},
    {"first_wave_share", "first_wave", &EngineConstants::first_wave_share},
    {"wait_factor", "wait", &EngineConstants::wait_factor},
}};

EngineAdjustment read_adjustment(JsonFields fields) {
  EngineAdjustment adjustment;
  if (fields.has("version")) adjustment.version = fields.text("version");
  if (fields.has("gpu")) adjustment.gpu = fields.text("gpu");
  if (fields.has("models")) adjustment.models = fields.texts("models");
  if (fields.has("precision")) adjustment.precision = fields.text("precision");
  JsonFields factors = fields.object("factors");
  for (const std::string& group : engine_constant_groups()) {
    if (factors.has(group)) adjustment.factors[group] = factors.number(group, Range::positive);
  }
  factors.finish();
  fields.finish();
  return adjustment;
}

KvOverhead read_overhead(JsonFields fields) {
  KvOverhead overhead;
  overhead.context_bytes = fields.whole("context_bytes", Range::not_negative);
  overhead.peer_bytes = fields.whole("peer_bytes", Range::not_negative);
  overhead.activation_factor = fields.number("activation_factor", Range::not_negative);
  overhead.logit_bytes = fields.number("logit_bytes", Range::not_negative);
  overhead.whole_embedding = fields.number("whole_embedding", Range::not_negative) != 0;
  const std::string share_of = fields.text("share_of");
  const auto* const known =
      std::find_if(shares.begin(), shares.end(), [&](const auto& s) { return s.first == share_of; });
  if (known == shares.end()) fields.refuse("share_of", "must be visible, resident or free");
  overhead.share_of = known->second;
  fields.finish();
  return overhead;
}

Json json_of(const KvOverhead& overhead) {
  Json object = {{"context_bytes", overhead.context_bytes},
                 {"peer_bytes", overhead.peer_bytes},
                 {"activation_factor", overhead.activation_factor},
                 {"logit_bytes", overhead.logit_bytes},
                 {"whole_embedding", overhead.whole_embedding ? 1 : 0}};
  for (const auto& [name, share_of] : shares) {
    if (share_of == overhead.share_of) object["share_of"] = name;
  }
  return object;
}

Json json_of(const EngineAdjustment& adjustment) {
  Json object = Json::object();
  if (!adjustment.version.empty()) object["version"] = adjustment.version;
  if (!adjustment.gpu.empty()) object["gpu"] = adjustment.gpu;
  if (!adjustment.models.empty()) object["models"] = adjustment.models;
  if (!adjustment.precision.empty()) object["precision"] = adjustment.precision;
  object["factors"] = adjustment.factors;
  return object;
}

Json json_of(const Engine& engine) {
  Json constants = Json::object();
  for (const EngineConstant& constant : constants_by_name) constants[constant.name] = engine.constants.*constant.member;
  Json object = {{"format", format_name},
                 {"version", format_version},
                 {"name", engine.name},
                 {"product", engine.product},
                 {"sources", engine.sources},
                 {"token_budget", engine.token_budget},
                 {"max_sequences", engine.max_sequences},
                 {"block_tokens", engine.block_tokens},
                 {"memory_share", engine.memory_share},
                 {"held_output_share", engine.held_output_share},
                 {"kv_overhead", json_of(engine.kv_overhead)},
                 {"constants", constants},
                 {"adjustments", Json::array()}};
  for (const EngineAdjustment& adjustment : engine.adjustments) object["adjustments"].push_back(json_of(adjustment));
  return object;
}

bool agrees(const std::string& wanted, const std::string& value) { return wanted.empty() || wanted == value; }

}  // namespace

std::span<const EngineConstant> engine_constants() { return constants_by_name; }

EngineConstants bounded(const EngineConstants& constants) {
  constexpr double sharpness = 8;
  EngineConstants below = constants;
  const auto bend = [](double& value, double ceiling) {
    value /= std::pow(1 + std::pow(value / ceiling, sharpness), 1 / sharpness);
  };
  for (double EngineConstants::*const share :
       {&EngineConstants::weight_bandwidth_share, &EngineConstants::kv_bandwidth_share,
        &EngineConstants::gemm_flops_share, &EngineConstants::attention_flops_share,
        &EngineConstants::link_bandwidth_share}) {
    bend(below.*share, 0.95);
  }
  bend(below.first_wave_share, 1);
  return below;
}

std::vector<std::string> engine_constant_groups() {
  std::vector<std::string> groups;
  for (const EngineConstant& constant : constants_by_name) {
    if (std::find(groups.begin(), groups.end(), constant.group) == groups.end()) groups.emplace_back(constant.group);
  }
  return groups;
}

std::string precision_name(const Llm& llm, const Deployment& deployment) {
  const WeightTypes types = weight_types(llm, deployment);
  return to_string(has_experts(llm) ? types.experts : types.feed_forward);
}

EngineConstants adjusted_constants(const Engine& engine, const std::string& gpu, const std::string& model,
                                   const std::string& precision) {
  EngineConstants constants = engine.constants;
  for (const EngineAdjustment& adjustment : engine.adjustments) {
    const bool holds = agrees(adjustment.version, engine.version) && agrees(adjustment.gpu, gpu) &&
                       agrees(adjustment.precision, precision) &&
                       (adjustment.models.empty() || std::find(adjustment.models.begin(), adjustment.models.end(),
                                                               model) != adjustment.models.end());
    if (!holds) continue;
    for (const EngineConstant& constant : constants_by_name) {
      const auto factor = adjustment.factors.find(constant.group);
      if (factor != adjustment.factors.end()) constants.*constant.member *= factor->second;
    }
  }
  return bounded(constants);
}

std::vector<std::string> engine_versions(const Engine& engine) {
  std::set<std::string> versions;
  for (const EngineAdjustment& adjustment : engine.adjustments) {
    if (!adjustment.version.empty()) versions.insert(adjustment.version);
  }
  return {versions.begin(), versions.end()};
}

Engine read_engine(const std::filesystem::path& file) {
  const nlohmann::json root = parse_json_file(file);
  JsonFields fields(root, file.string());
  fields.expect_format(format_name, format_version);
  Engine engine;
  engine.name = fields.text("name");
  engine.product = fields.text("product");
  engine.sources = fields.texts("sources");
  if (engine.sources.empty()) fields.refuse("sources", "must say what the constants were fitted to");
  engine.token_budget = fields.whole("token_budget", Range::positive);
  engine.max_sequences = fields.whole("max_sequences", Range::positive);
  engine.block_tokens = fields.whole("block_tokens", Range::positive);
  engine.memory_share = fields.number("memory_share", Range::positive);
  if (engine.memory_share > 1) fields.refuse("memory_share", "must be in (0, 1]");
  engine.held_output_share = fields.number("held_output_share", Range::positive);
  if (engine.held_output_share < 0.5 || engine.held_output_share > 1) {
    fields.refuse("held_output_share", "must be in [0.5, 1]");
  }
  engine.kv_overhead = read_overhead(fields.object("kv_overhead"));
  JsonFields constants = fields.object("constants");
  for (const EngineConstant& constant : constants_by_name) {
    engine.constants.*constant.member = constants.number(constant.name, Range::positive);
  }
  constants.finish();
  if (fields.has("adjustments")) {
    for (JsonFields& adjustment : fields.objects("adjustments")) {
      engine.adjustments.push_back(read_adjustment(std::move(adjustment)));
    }
  }
  fields.finish();
  return engine;
}

void write_engine(const std::filesystem::path& file, const Engine& engine) {
  write_json_file(file, json_of(engine), 1);
}

Engine find_engine(const std::string& name) {
  const bool is_path = name.find('/') != std::string::npos || name.ends_with(".json");
  const std::size_t colon = is_path ? std::string::npos : name.find(':');
  Engine engine = read_engine(find_data_file("engines", name.substr(0, colon)));
  if (colon == std::string::npos) return engine;
  engine.version = name.substr(colon + 1);
  const std::vector<std::string> versions = engine_versions(engine);
  if (std::find(versions.begin(), versions.end(), engine.version) == versions.end()) {
    throw Error(ErrorCode::unknown_name,
                fmt::format("no measured version of that name; without one the mean holds; versions: {}",
                            fmt::join(versions, ", ")),
                {.file = {}, .dataset = {}, .parameter = "engine", .value = name});
  }
  return engine;
}

}  // namespace evictsim::models
