#include "sim/serving/measured_points.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string_view>

#include "models/data_files.h"
#include "models/deployment.h"
#include "models/gpu.h"
#include "models/kv_budget.h"
#include "models/llm.h"
#include "sim/serving/measured_row.h"
#include "traces/error.h"
#include "traces/text_lines.h"

namespace evictsim::sim {
namespace {

using models::Deployment;
using models::ElementType;
using models::Llm;

constexpr double largest_memory_share = 0.97;

/// The loads of a public benchmark (InferenceMAX: 1024 or 8192 tokens each way) draw every length evenly from 0.8 to 1
/// of what their name says; rows tell the name.
double drawn_share(const ClosedLoopLoad& named) {
  const auto standard = [](double tokens) { return tokens == 1024 || tokens == 8192; };
  return standard(named.prompt_tokens) && standard(named.output_tokens) ? 0.9 : 1;
}

ElementType quantised(const std::string& mode) {
  if (mode.empty() || mode == "bf16" || mode == "bfloat16" || mode == "float16") return ElementType::bf16;
  if (mode == "fp8" || mode == "fp8_block" || mode == "fp8_static") return ElementType::fp8;
  if (mode == "nvfp4") return ElementType::nvfp4;
  throw Unsupported{fmt::format("unsupported quantisation {}", mode)};
}

/// Models published with 4-bit experts and other weights in 16 bits stay so, whatever a row calls it.
void set_types(const MeasuredRow& row, const std::string& engine, const Llm& llm, const models::Gpu& gpu,
               Deployment& deployment) {
  const ElementType gemm = quantised(row.text("gemm_quant_mode"));
  if (!has_experts(llm)) {
    deployment.weights = gemm;
  } else if (llm.weights.experts == ElementType::mxfp4) {
    deployment.weights = ElementType::bf16;
    deployment.experts = ElementType::mxfp4;
  } else {
    deployment.experts = quantised(row.text("moe_quant_mode"));
    deployment.weights = gemm;
  }
  // Not told by the rows, but batches that memory limits show it: KV is narrower than bf16 with quantised weights in
  // TensorRT-LLM, and in the others on GPUs that compute in 4 bits.
  const bool narrow = gemm != ElementType::bf16 && (engine == "trtllm" || gpu.flops_per_second.count("fp4") > 0);
  deployment.kv = narrow ? ElementType::fp8 : ElementType::bf16;
}

/// Descriptions, read once.
class Descriptions {
 public:
  const Llm& llm(const std::string& name) {
    return found(llms_, name, "model", [&] { return models::find_llm(name); });
  }
  const models::Engine& engine(const std::string& name) {
    return found(engines_, name, "engine", [&] { return models::find_engine(name); });
  }
  const models::Gpu& gpu(const std::string& system) {
    return found(gpus_, system, "GPU", [&] { return models::find_gpu(system); });
  }

 private:
  template <typename Value, typename Find>
  static const Value& found(std::map<std::string, Value>& known, const std::string& name, const char* what, Find find) {
    if (const auto place = known.find(name); place != known.end()) return place->second;
    // A path is no name: what a table of points holds must not choose files to read. Only names of models have a slash.
    const bool slash = name.find('/') != std::string::npos && std::string_view(what) != "model";
    if (slash || name.find('\\') != std::string::npos || name.ends_with(".json") || name.starts_with('/') ||
        name.starts_with('.')) {
      throw Unsupported{fmt::format("unsupported {} {}", what, name)};
    }
    try {
      return known.emplace(name, find()).first->second;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unknown_name && error.code() != ErrorCode::file_not_found) throw;
      throw Unsupported{fmt::format("unsupported {} {}", what, name)};
    }
  }

  std::map<std::string, Llm> llms_;
  std::map<std::string, models::Engine> engines_;
  std::map<std::string, models::Gpu> gpus_;
};

/// Where an engine's version is not told, the month of the measurement stands for it.
std::string version_of(const MeasuredRow& row) {
  const std::string version = row.text("backend_version");
  const std::string date = row.text("measured_date");
  if (!version.empty() || date.size() < 7) return version;
  return "of " + date.substr(0, 7);
}

/// With the engine's share of memory; where the weights leave nothing of it, with the largest share that operators set,
/// as what was measured did run.
models::KvBudget roomy_budget(const Llm& llm, const models::Gpu& gpu, const models::KvOverhead& overhead,
                              const Deployment& deployment, models::KvBudgetOptions options) {
  try {
    return models::kv_budget(llm, gpu, overhead, deployment, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory) throw;
    options.memory_share = std::max(options.memory_share, largest_memory_share);
    return models::kv_budget(llm, gpu, overhead, deployment, options);
  }
}

/// What a replica's memory and layout allow. A layout that the model does not allow, a rate that no description has, or
/// no room for the weights concern this row alone.
template <typename Result, typename Compute>
Result allowed(Compute compute) {
  try {
    return compute();
  } catch (const Error& error) {
    throw Unsupported{fmt::format("unsupported: {}", error.what())};
  }
}

models::KvBudget budget_of(const Llm& llm, const models::Gpu& gpu, const models::Engine& engine,
                           const Deployment& deployment) {
  models::KvBudgetOptions options;
  options.memory_share = engine.memory_share;
  options.block_tokens = static_cast<int>(engine.block_tokens);
  options.token_budget = engine.token_budget;
  options.max_sequences = engine.max_sequences;
  return allowed<models::KvBudget>([&] { return roomy_budget(llm, gpu, engine.kv_overhead, deployment, options); });
}

/// What decodes, and how many requests are in flight there.
void fill_loop(const MeasuredRow& row, const Llm& llm, const models::Gpu& gpu, const Deployment& deployment,
               double concurrency, MeasuredPoint& point) {
  point.precision = models::precision_name(llm, deployment);
  ClosedLoopLoad& loop = point.loop;
  loop.prompt_tokens = row.count("isl");
  loop.output_tokens = row.count("osl");
  const double drawn = drawn_share(loop);
  loop.prompt_tokens = std::round(drawn * loop.prompt_tokens);
  loop.output_tokens = std::round(drawn * loop.output_tokens);
  loop.concurrency = concurrency;
  if (loop.prompt_tokens < 1) throw Unsupported{"unsupported isl 0"};
  if (loop.output_tokens < 1) throw Unsupported{"unsupported osl 0"};
  loop.token_budget = static_cast<double>(point.engine.token_budget);
  loop.entries_read =
      models::mean_entries_read(llm, static_cast<std::int64_t>(loop.prompt_tokens + loop.output_tokens / 2));
  const models::KvBudget budget = budget_of(llm, gpu, point.engine, deployment);
  const double held = point.engine.held_output_share;
  const double blocks_held =
      (loop.prompt_tokens + held * loop.output_tokens) / static_cast<double>(point.engine.block_tokens) +
      static_cast<double>(budget.blocks_per_sequence);
  loop.queued_share =
      (loop.prompt_tokens + (2 * held - 1) * loop.output_tokens) / (loop.prompt_tokens + loop.output_tokens);
  const double fitting = static_cast<double>(budget.blocks) * deployment.attention_data_parallel / blocks_held;
  // Each copy of attention has a scheduler of its own.
  const auto most = static_cast<double>(point.engine.max_sequences * deployment.attention_data_parallel);
  loop.most_sequences = std::clamp(fitting, 1.0, most);
  point.shape = allowed<models::StepShape>([&] { return models::StepShape(llm, gpu, deployment); });
}

/// What computes prompts for it, and the time of copying a cache over the prompt's GPUs, one link each.
PrefillSide prefill_side(const Llm& llm, const models::Gpu& gpu, const DisaggregatedLayout& layout,
                         const MeasuredPoint& point) {
  const Deployment prefill = allowed<Deployment>([&] { return models::checked(llm, layout.prefill); });
  PrefillSide side;
  side.shape = allowed<models::StepShape>([&] { return models::StepShape(llm, gpu, prefill); });
  budget_of(llm, gpu, point.engine, prefill);
  side.replicas.per_decode_replica = static_cast<double>(layout.prefill_replicas) / layout.decode_replicas;
  side.replicas.prompts_at_once = prefill.attention_data_parallel;
  const std::optional<models::TransferRate> link = gpu.peer ? gpu.peer : gpu.device_to_host;
  if (!link) throw Unsupported{fmt::format("unsupported mode disagg on {}: no rate of a link is known", gpu.name)};
  side.replicas.transfer_seconds = link->latency_seconds.value_or(0) + point.loop.prompt_tokens *
                                                                           models::kv_bytes_per_token(llm, prefill) /
                                                                           link->bytes_per_second;
  return side;
}

void fill(const MeasuredRow& row, Descriptions& descriptions, MeasuredPoint& point) {
  const std::string mode = row.text("mode");
  if (mode != "agg" && mode != "disagg") throw Unsupported{fmt::format("unsupported mode {}", mode)};
  const Llm& llm = descriptions.llm(row.text("model_path"));
  const models::Gpu& gpu = descriptions.gpu(row.text("system"));
  point.engine = descriptions.engine(row.text("backend"));
  point.engine.version = version_of(row);
  point.gpu = gpu.name;
  point.model = llm.name;
  if (mode == "agg") {
    MeasuredLayout layout = aggregated_layout(row, has_experts(llm));
    set_types(row, point.engine.name, llm, gpu, layout.deployment);
    fill_loop(row, llm, gpu, layout.deployment, layout.concurrency, point);
  } else {
    DisaggregatedLayout layout = disaggregated_layout(row, has_experts(llm));
    set_types(row, point.engine.name, llm, gpu, layout.prefill);
    set_types(row, point.engine.name, llm, gpu, layout.decode);
    fill_loop(row, llm, gpu, layout.decode, layout.concurrency, point);
    point.prefill = prefill_side(llm, gpu, layout, point);
  }
  point.first_token_seconds = row.measured("silicon_ttft_ms");
  point.per_output_token_seconds = row.measured("silicon_tpot_ms");
}

std::map<std::string, std::size_t> columns_of(const traces::TextLines& lines, const std::string& header) {
  std::vector<std::string_view> names;
  traces::split_csv(header, names);
  std::map<std::string, std::size_t> columns;
  for (std::size_t i = 0; i < names.size(); ++i) columns.emplace(names[i], i);
  constexpr std::array<const char*, 15> needed = {
      "id",      "backend",     "backend_version", "model_path",     "system",     "mode",
      "isl",     "osl",         "gemm_quant_mode", "moe_quant_mode", "batch_size", "silicon_concurrency",
      "tp_size", "moe_tp_size", "moe_ep_size"};
  for (const char* const name : needed) {
    if (columns.count(name) == 0) {
      throw lines.error(ErrorCode::missing_data, "a table of measured points needs this column", name);
    }
  }
  return columns;
}

}  // namespace

std::vector<MeasuredPoint> read_measured_points(const std::filesystem::path& file) {
  traces::TextLines lines(file);
  std::string line;
  if (!lines.next(line)) throw lines.file_error(ErrorCode::missing_data, "a table of measured points needs a header");
  const std::map<std::string, std::size_t> columns = columns_of(lines, line);
  const std::size_t width = static_cast<std::size_t>(std::count(line.begin(), line.end(), ',')) + 1;
  std::vector<MeasuredPoint> points;
  std::vector<std::string_view> fields;
  Descriptions descriptions;
  while (lines.next(line)) {
    traces::split_csv(line, fields);
    if (fields.size() != width) {
      throw lines.error(ErrorCode::invalid_value, fmt::format("this row must have {} fields as the header", width));
    }
    const MeasuredRow row(columns, fields);
    MeasuredPoint point;
    point.id = row.text("id");
    point.status = "ok";
    try {
      fill(row, descriptions, point);
    } catch (const Unsupported& unsupported) {
      point.status = unsupported.reason;
    }
    std::replace(point.status.begin(), point.status.end(), '\n', ' ');
    points.push_back(std::move(point));
  }
  return points;
}

ClosedLoopTimes times_of(const MeasuredPoint& point, const models::EngineConstants& constants) {
  const models::StepTime step_time(point.shape, constants);
  if (!point.prefill) return closed_loop_times(step_time, constants, point.loop);
  return disaggregated_times(models::StepTime(point.prefill->shape, constants), step_time, constants, point.loop,
                             point.prefill->replicas);
}

ClosedLoopTimes predict(const MeasuredPoint& point) {
  return times_of(point, models::adjusted_constants(point.engine, point.gpu, point.model, point.precision));
}

std::vector<PointPrediction> predict_points(const std::filesystem::path& file) {
  std::vector<PointPrediction> predictions;
  for (const MeasuredPoint& point : read_measured_points(file)) {
    PointPrediction prediction;
    prediction.id = point.id;
    prediction.status = point.status;
    if (point.status == "ok") {
      const ClosedLoopTimes times = predict(point);
      prediction.ttft_ms = times.first_token * 1e3;
      prediction.tpot_ms = times.per_output_token * 1e3;
    }
    predictions.push_back(std::move(prediction));
  }
  return predictions;
}

}  // namespace evictsim::sim
