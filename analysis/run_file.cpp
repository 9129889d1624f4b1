#include "analysis/run_file.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "analysis/run_file_output.h"
#include "analysis/summary.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

void write_rows(const hdf5::Node& root, const std::vector<RunRow>& rows) {
  const hdf5::Node group = root.create_group("rows");
  write_texts(group, "trace", column(rows, [](const RunRow& row) { return row.trace; }));
  write_texts(group, "sequence", column(rows, [](const RunRow& row) { return row.sequence; }));
  write_texts(group, "policy", column(rows, [](const RunRow& row) { return row.policy; }));
  write_texts(group, "budget", column(rows, [](const RunRow& row) { return row.budget; }));
  write_texts(group, "status", column(rows, [](const RunRow& row) { return row.status; }));
  write_texts(group, "damage_index_kind", column(rows, [](const RunRow& row) { return row.damage_index_kind; }));
  write_texts(group, "prediction_status", column(rows, [](const RunRow& row) { return row.prediction_status; }));
  write_counts(group, "prompt_length", column(rows, [](const RunRow& row) { return row.prompt_length; }));
  write_counts(group, "decode_rows", column(rows, [](const RunRow& row) { return row.decode_rows; }));
  write_counts(group, "layers", column(rows, [](const RunRow& row) { return row.layers; }));
  for (std::size_t metric = 0; metric < metric_count; ++metric) {
    write_array(group, to_string(static_cast<Metric>(metric)), {rows.size()},
                column(rows, [metric](const RunRow& row) { return row.metrics[metric]; }));
  }
}

bool is_bound(const std::string& metric) { return metric.ends_with("_low") || metric.ends_with("_high"); }

void write_summary(const hdf5::Node& root, const std::vector<RunRow>& rows) {
  const std::vector<PointSummary> points = summarise(rows);
  const hdf5::Node group = root.create_group("summary");
  write_texts(group, "policy", column(points, [](const PointSummary& point) { return point.policy; }));
  write_texts(group, "budget", column(points, [](const PointSummary& point) { return point.budget; }));
  write_counts(group, "sequences",
               column(points, [](const PointSummary& point) { return static_cast<std::int64_t>(point.sequences); }));
  for (std::size_t metric = 0; metric < metric_count; ++metric) {
    const std::string name = to_string(static_cast<Metric>(metric));
    // Bounds over the steps of each sequence have no meaning as a mean; those over sequences take their names.
    if (is_bound(name)) continue;
    const auto write = [&](const std::string& dataset, double Estimate::*member) {
      write_array(group, dataset, {points.size()},
                  column(points, [&](const PointSummary& point) { return point.metrics[metric].*member; }));
    };
    write(name, &Estimate::mean);
    write(name + "_low", &Estimate::low);
    write(name + "_high", &Estimate::high);
  }
}

void write_over_budgets(const hdf5::Node& root, const std::vector<RunRow>& rows) {
  const std::vector<PolicySummary> policies = summarise_over_budgets(rows);
  const hdf5::Node group = root.create_group("over_budgets");
  write_texts(group, "trace", column(policies, [](const PolicySummary& policy) { return policy.trace; }));
  write_texts(group, "policy", column(policies, [](const PolicySummary& policy) { return policy.policy; }));
  write_texts(group, "budgets", column(policies, [](const PolicySummary& policy) {
                return fmt::format("{}", fmt::join(policy.budgets, ","));
              }));
  write_counts(group, "sequences", column(policies, [](const PolicySummary& policy) {
                 return static_cast<std::int64_t>(policy.normalised_regret.count);
               }));
  const auto write = [&](const char* dataset, double Estimate::*member) {
    write_array(group, dataset, {policies.size()},
                column(policies, [member](const PolicySummary& policy) { return policy.normalised_regret.*member; }));
  };
  write("normalised_regret", &Estimate::mean);
  write("normalised_regret_low", &Estimate::low);
  write("normalised_regret_high", &Estimate::high);
}

/// What became of one policy over the sequences.
struct PolicyFate {
  std::size_t skipped = 0, failed = 0;
  std::string skip_reason, failure;  ///< the first of each
  [[nodiscard]] std::string text(std::size_t sequences) const {
    if (failed > 0) return fmt::format("failed in {} of {} sequences: {}", failed, sequences, failure);
    if (skipped > 0) return fmt::format("skipped in {} of {} sequences: {}", skipped, sequences, skip_reason);
    return "ok";
  }
};

}  // namespace

struct RunFile::Impl {
  Impl(const std::filesystem::path& path, const sim::ReplayPlan& replay_plan, Provenance where_from)
      : plan(replay_plan), provenance(std::move(where_from)), fates(plan.policies.size()), file(path) {}

  void write_policies() const {
    const hdf5::Node group = file.root().create_group("policies");
    write_texts(group, "name", column(plan.policies, [](const policies::Policy& policy) { return policy.name; }));
    write_texts(group, "expansion",
                column(plan.policies, [](const policies::Policy& policy) { return policy.expansion; }));
    write_texts(group, "status", column(fates, [this](const PolicyFate& fate) { return fate.text(sequences); }));
  }

  void write_detail(const SequenceResult& result) const {
    const hdf5::Node detail = group_in(file.root(), "detail");
    const hdf5::Node trace = group_in(detail, "trace_" + std::to_string(result.start.trace));
    if (!trace.has_attribute("path")) trace.set_attribute("path", result.start.trace_path);
    const hdf5::Node sequence = trace.create_group(result.start.name);
    sequence.write_integers("layers", {result.start.layers.size()},
                            {result.start.layers.begin(), result.start.layers.end()});
    sequence.write_integers("steps", {result.start.decode_rows.size()}, result.start.decode_rows);
    write_arrays(sequence, result.full_detail);
    write_entries(sequence, result.full_entries);
    for (std::size_t index = 0; index < result.rows.size(); ++index) {
      const RunRow& row = result.rows[index];
      const hdf5::Node policy = group_in(sequence, group_name(row.policy));
      const hdf5::Node budget = policy.create_group(row.budget);
      if (!result.detail.empty()) write_arrays(budget, result.detail[index]);
      if (!result.entries.empty()) write_entries(budget, result.entries[index]);
    }
  }

  static void write_arrays(const hdf5::Node& group, const std::vector<DetailArray>& arrays) {
    for (const DetailArray& array : arrays) {
      const std::size_t slash = array.name.find('/');
      const bool apart = slash != std::string::npos;
      const hdf5::Node place = apart ? group_in(group, array.name.substr(0, slash)) : hdf5::Node();
      write_array(apart ? place : group, array.name.substr(apart ? slash + 1 : 0), array.shape, array.values)
          .set_attribute("axes", array.axes);
    }
  }

  static void write_entries(const hdf5::Node& group, const std::vector<EntryArray>& arrays) {
    for (const EntryArray& array : arrays) {
      std::vector<std::size_t> chunk = array.shape;
      if (chunk.size() > 1) chunk.front() = 1;
      const bool packed = !array.bits.empty();
      const hdf5::Node dataset =
          group.create_dataset(array.name, packed ? H5T_STD_U8LE : H5T_IEEE_F32LE, array.shape, chunk, true);
      dataset.write_rows(array.shape, 0, array.shape.front(),
                         packed ? static_cast<const void*>(array.bits.data()) : array.values.data());
      dataset.set_attribute("axes", array.axes);
      if (!packed) continue;
      dataset.set_attribute("packed", std::string("little"));
      dataset.set_attribute("entries", static_cast<std::int64_t>(array.entries));
    }
  }

  const sim::ReplayPlan& plan;
  Provenance provenance;
  std::vector<RunRow> rows;
  ProfileColumns profile;
  EventColumns events;
  std::vector<PolicyFate> fates;
  std::size_t sequences = 0;
  PendingFile file;
};

RunFile::RunFile(const std::filesystem::path& path, const sim::ReplayPlan& plan, Provenance provenance) {
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path, plan, std::move(provenance));
}

RunFile::~RunFile() {
  const hdf5::Guard guard;
  impl_.reset();
}

void RunFile::add(const SequenceResult& result, const EventLog* events) {
  const hdf5::Guard guard;
  ++impl_->sequences;
  if (events != nullptr) {
    for (std::size_t i = 0; i < result.rows.size(); ++i) {
      impl_->events.add(impl_->rows.size() + i, events->events(result.points[i]));
    }
  }
  impl_->rows.insert(impl_->rows.end(), result.rows.begin(), result.rows.end());
  impl_->profile.add(result);
  for (const auto& [policy, why] : result.skipped) {
    PolicyFate& fate = impl_->fates[policy];
    if (fate.skipped++ == 0) fate.skip_reason = why;
  }
  for (const auto& [policy, why] : result.failed) {
    PolicyFate& fate = impl_->fates[policy];
    if (fate.failed++ == 0) fate.failure = why;
  }
  if (!result.full_detail.empty() || !result.entries.empty()) impl_->write_detail(result);
}

void RunFile::seal(bool complete) {
  const hdf5::Guard guard;
  const hdf5::Node& root = impl_->file.root();
  root.set_attribute("format", std::string("evictsim-run"));
  root.set_attribute("format_version", std::int64_t{1});
  write_rows(root, impl_->rows);
  write_summary(root, impl_->rows);
  write_over_budgets(root, impl_->rows);
  write_profile(root, impl_->profile);
  if (!impl_->events.of.empty()) write_events(root, impl_->events);
  write_provenance(root, impl_->provenance, complete);
  impl_->write_policies();
  impl_->file.seal();
}

}  // namespace evictsim::analysis
