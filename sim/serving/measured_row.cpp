#include "sim/serving/measured_row.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "traces/text_lines.h"

namespace evictsim::sim {
namespace {

using models::Deployment;

/// Aggregated replicas were measured on one machine, the others also on racks whose GPUs all have links to each other.
constexpr int machine_gpus = 8;
constexpr int rack_gpus = 72;
constexpr double largest_count = 1e9;
constexpr int largest_degree = 4096;

void require_gpus(const Deployment& deployment, int most) {
  const std::int64_t gpus = std::int64_t{deployment.gpus_per_stage()} * deployment.pipeline_parallel;
  if (gpus > most) throw Unsupported{fmt::format("unsupported layout of {} GPUs", gpus)};
}

/// One side's replicas; `side` begins its columns.
Deployment side_layout(const MeasuredRow& row, const std::string& side, bool experts) {
  Deployment deployment;
  deployment.tensor_parallel = std::max(row.degree(side + "tp_size"), 1);
  deployment.pipeline_parallel = std::max(row.degree(side + "pp_size"), 1);
  deployment.attention_data_parallel = std::max(row.degree(side + "attention_dp_size"), 1);
  require_gpus(deployment, rack_gpus);
  if (experts) {
    deployment.moe_tensor_parallel = row.degree(side + "moe_tp_size");
    deployment.moe_expert_parallel = row.degree(side + "moe_ep_size");
  }
  return deployment;
}

int needed(const MeasuredRow& row, const std::string& column) {
  const int value = row.degree(column);
  if (value == 0) throw Unsupported{fmt::format("unsupported mode disagg without {}", column)};
  return value;
}

}  // namespace

std::string MeasuredRow::text(const std::string& column) const {
  const auto found = columns_->find(column);
  return found == columns_->end() ? std::string() : std::string((*fields_)[found->second]);
}

int MeasuredRow::count(const std::string& column) const {
  const double value = number(column);
  if (std::isnan(value)) return 0;
  if (value < 0 || value > largest_count || value != std::floor(value)) {
    throw Unsupported{fmt::format("unsupported {} {}", column, text(column))};
  }
  return static_cast<int>(value);
}

int MeasuredRow::degree(const std::string& column) const {
  const int value = count(column);
  if (value > largest_degree) throw Unsupported{fmt::format("unsupported {} {}", column, value)};
  return value;
}

double MeasuredRow::measured(const std::string& column) const {
  const auto value = traces::number_in<double>(text(column));
  return value && std::isfinite(*value) && *value > 0 ? *value / 1e3 : std::numeric_limits<double>::quiet_NaN();
}

double MeasuredRow::number(const std::string& column) const {
  const std::string field = text(column);
  if (field.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto value = traces::number_in<double>(field);
  if (!value || !std::isfinite(*value)) throw Unsupported{fmt::format("unsupported {} {}", column, field)};
  return *value;
}

/// A row tells degrees, but not all rows tell them alike: measured values show that some give products of degrees. A
/// row of "tp 64, moe tp 8, ep 8" and one of "tp 8, moe tp 1, ep 8" hold the same measurements, on 8 GPUs.
MeasuredLayout aggregated_layout(const MeasuredRow& row, bool experts) {
  const int tensor = std::max(row.degree("tp_size"), 1);
  const int moe_tensor = std::max(row.degree("moe_tp_size"), 1);
  int expert = std::max(row.degree("moe_ep_size"), 1);
  int copies = row.degree("attention_dp_size");
  const int batch = row.count("batch_size");
  const int in_flight = row.count("silicon_concurrency");
  MeasuredLayout layout;
  Deployment& deployment = layout.deployment;
  deployment.tensor_parallel = tensor;
  if (copies == 0) {  // not told: the batch is then one attention copy's
    copies = 1;
    if (experts && batch > 0 && in_flight > batch && in_flight % batch == 0 && in_flight / batch <= tensor &&
        tensor % (in_flight / batch) == 0) {
      copies = in_flight / batch;
      deployment.tensor_parallel = tensor / copies;
    }
    layout.concurrency = static_cast<double>(batch) * copies;
    if (experts && copies == 1 && moe_tensor * expert > tensor && (moe_tensor * expert) % tensor == 0) {
      copies = moe_tensor * expert / tensor;
    }
  } else {
    layout.concurrency = static_cast<double>(batch) * copies;
    const int product = tensor * copies;
    if (experts && product > machine_gpus && moe_tensor == expert && product == moe_tensor * expert) {
      deployment.tensor_parallel = copies > 1 ? 1 : expert;
      copies = copies > 1 ? expert : 1;
    } else if (experts && tensor > 1 && tensor == copies && moe_tensor == 1 && product == expert) {
      expert = tensor;
      copies = 1;
    }
  }
  if (batch == 0) layout.concurrency = in_flight;
  deployment.attention_data_parallel = copies;
  deployment.pipeline_parallel = std::max(row.degree("pp_size"), 1);
  require_gpus(deployment, machine_gpus);
  if (experts) {
    deployment.moe_expert_parallel = std::min(expert, deployment.gpus_per_stage());
    deployment.moe_tensor_parallel = 0;
  }
  if (layout.concurrency < 1) throw Unsupported{"unsupported concurrency 0"};
  return layout;
}

DisaggregatedLayout disaggregated_layout(const MeasuredRow& row, bool experts) {
  DisaggregatedLayout layout;
  layout.prefill_replicas = needed(row, "prefill_num_workers");
  layout.decode_replicas = needed(row, "decode_num_workers");
  // Batches that a row tells are limits of its replicas; how many ran is known only from the requests in flight.
  const int in_flight = row.count("silicon_concurrency");
  if (in_flight == 0) throw Unsupported{"unsupported mode disagg without silicon_concurrency"};
  layout.concurrency = static_cast<double>(in_flight) / layout.decode_replicas;
  layout.prefill = side_layout(row, "prefill_", experts);
  layout.decode = side_layout(row, "decode_", experts);
  return layout;
}

}  // namespace evictsim::sim
