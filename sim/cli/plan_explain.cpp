#include "sim/cli/plan_explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "models/data_files.h"
#include "models/storage.h"
#include "policies/names.h"

namespace evictsim {
namespace {

constexpr double gib = 1024.0 * 1024 * 1024;

std::string gib_of(double bytes) { return fmt::format("{:.3f} GiB", bytes / gib); }

std::string budget_lines(const sim::DeployedModel& deployed, int copies) {
  const models::KvBudget& budget = deployed.budget;
  const sim::ReplicaGroup& group = deployed.options.replicas;
  std::string text;
  if (budget.lines.empty()) {
    text += fmt::format("KV memory: {} blocks of {} tokens, as --kv-blocks says\n", group.blocks, group.block_tokens);
    return text;
  }
  text += "KV budget of one GPU:\n";
  std::size_t width = 0;
  for (const models::KvBudgetLine& line : budget.lines) width = std::max(width, line.name.size());
  for (const models::KvBudgetLine& line : budget.lines) {
    text += fmt::format("  {:<{}}  {:>15}  {:>12}  {}\n", line.name, width, line.bytes,
                        gib_of(static_cast<double>(line.bytes)), line.how);
  }
  text += fmt::format("  {:<{}}  {:>15}  {:>12}\n", "= keys and values", width, budget.kv_bytes,
                      gib_of(static_cast<double>(budget.kv_bytes)));
  text += fmt::format("  {} blocks of {} tokens = {} tokens of {} bytes per GPU{}\n", group.blocks, group.block_tokens,
                      group.blocks * group.block_tokens, budget.bytes_per_token,
                      copies > 1 ? fmt::format(", in {} copies of attention", copies) : "");
  if (budget.bytes_per_sequence > 0) {
    text += fmt::format("  besides, {} bytes per sequence in windows and constant states\n", budget.bytes_per_sequence);
  }
  return text;
}

struct Example {
  std::string name;
  models::StepWork work;
};

/// A prompt alone, a full chunk, one sequence that decodes, and batches that do, up to what fits.
std::vector<Example> examples(const analysis::PlanCase& plan, const sim::DeployedModel& deployed) {
  const analysis::MeanLengths lengths = analysis::mean_lengths(plan);
  const sim::ReplicaGroup& group = deployed.options.replicas;
  const std::int64_t prompt = std::max<std::int64_t>(1, std::llround(lengths.prompt));
  const std::int64_t context = std::max<std::int64_t>(1, std::llround(lengths.prompt + lengths.output / 2));
  // Where layers have windows, fewer entries are read than the context has.
  const auto read = [&](std::int64_t tokens) {
    return std::llround(models::mean_entries_read(*plan.setup.llm, tokens));
  };
  const auto decode = [&](std::int64_t sequences) {
    models::StepWork work;
    work.decode_sequences = sequences;
    work.decode_entries = sequences * read(context);
    return work;
  };
  const auto prefill = [&](models::StepWork work, std::int64_t tokens) {
    work.prefill_sequences = 1;
    work.prefill_tokens = tokens;
    work.prefill_context = read(tokens);
    work.prefill_pairs = tokens * (tokens + 1) / 2;
    return work;
  };
  const std::int64_t chunk = std::min(prompt, group.token_budget);
  const std::int64_t most =
      std::clamp<std::int64_t>(deployed.kv_tokens() / context, 1, std::min<std::int64_t>(group.max_sequences, 1 << 20));
  std::vector<Example> all = {{fmt::format("{} tokens of a prompt", chunk), prefill({}, chunk)},
                              {fmt::format("1 sequence decodes at context {}", context), decode(1)}};
  if (most > 1) {
    all.push_back({fmt::format("{} sequences decode at context {}, as many as fit", most, context), decode(most)});
    all.push_back(
        {fmt::format("{} sequences decode beside {} tokens of a prompt", most, chunk), prefill(decode(most), chunk)});
  }
  return all;
}

}  // namespace

std::string explain(const analysis::PlanCase& plan) {
  const sim::DeployedModel deployed = sim::deploy(plan.setup);
  const analysis::PlanRow row = analysis::settings_of(plan);
  std::string text =
      fmt::format("{} on {} by {}: {}, {} replica{}\n", row.model, row.gpu, row.engine,
                  models::describe(*plan.setup.llm, models::checked(*plan.setup.llm, plan.setup.deployment)),
                  plan.setup.replica_count(), plan.setup.replica_count() == 1 ? "" : "s");
  text += budget_lines(deployed, plan.setup.deployment.attention_data_parallel);
  for (const Example& example : examples(plan, deployed)) {
    const double total = static_cast<double>(deployed.step_time.of(example.work)) * 1e-15;
    text += fmt::format("Step: {}: {:.3f} ms\n", example.name, total * 1e3);
    for (const models::StepTerm& term : deployed.step_time.terms(example.work)) {
      if (term.seconds == 0) continue;
      text +=
          fmt::format("  {:<32} {:>10.3f} ms  {:>5.1f} %\n", term.name, term.seconds * 1e3, 100 * term.seconds / total);
    }
  }
  text += fmt::format("Per request, before its first step: {:.3f} ms\n",
                      static_cast<double>(deployed.step_time.per_request()) * 1e-12);
  return text;
}

std::string list_models() {
  std::string text;
  for (const std::string& name : models::data_names("llms")) {
    const models::Llm llm = models::find_llm(name);
    text += fmt::format("{:<20} {:>7.1f} B parameters, {:>3} layers  {}\n", llm.name,
                        static_cast<double>(models::parameters(llm).total()) / 1e9, llm.layers.size(),
                        policies::join(llm.huggingface_names));
  }
  return text;
}

std::string list_gpus() {
  std::string text;
  for (const std::string& name : models::data_names("gpus")) {
    const models::Gpu gpu = models::find_gpu(name);
    text += fmt::format("{:<20} {:>6.1f} GiB {:>6.0f} GB/s  {}\n", gpu.name,
                        static_cast<double>(gpu.memory_bytes) / gib, gpu.memory_bytes_per_second / 1e9, gpu.product);
  }
  return text;
}

std::string list_engines() {
  std::string text;
  for (const std::string& name : models::data_names("engines")) {
    const models::Engine engine = models::find_engine(name);
    text += fmt::format("{:<10} {}; versions {}\n", engine.name, engine.product,
                        policies::join(models::engine_versions(engine)));
  }
  return text;
}

std::string list_storage() {
  std::string text;
  for (const std::string& name : models::data_names("storage")) {
    const models::Storage storage = models::find_storage(name);
    text += fmt::format("{:<20} {:>6.1f} GB/s read {:>6.1f} GB/s write {:>8.0f} us  {}\n", storage.name,
                        storage.read.bytes_per_second / 1e9, storage.write.bytes_per_second / 1e9,
                        storage.read.latency_seconds * 1e6, storage.product);
  }
  return text;
}

}  // namespace evictsim
