#pragma once
/// \file
/// One row of a table of measured points: its fields, and how its replicas lie on GPUs. Internal to
/// measured_points.cpp.

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "models/deployment.h"

namespace evictsim::sim {

/// Why a row cannot be predicted.
struct Unsupported {
  std::string reason;
};

class MeasuredRow {
 public:
  /// Both must outlive the row.
  MeasuredRow(const std::map<std::string, std::size_t>& columns, const std::vector<std::string_view>& fields)
      : columns_(&columns), fields_(&fields) {}

  /// Empty where there is no such column.
  [[nodiscard]] std::string text(const std::string& column) const;
  /// 0 where the field is empty. Some tables write whole numbers as "8.0". Throws Unsupported.
  [[nodiscard]] int count(const std::string& column) const;
  /// A parallel degree or a number of workers; 0 where the field is empty. Throws Unsupported.
  [[nodiscard]] int degree(const std::string& column) const;
  /// Seconds of a measured time in milliseconds; NaN where there is none.
  [[nodiscard]] double measured(const std::string& column) const;
  /// NaN where the field is empty. Throws Unsupported.
  [[nodiscard]] double number(const std::string& column) const;

 private:
  const std::map<std::string, std::size_t>* columns_;
  const std::vector<std::string_view>* fields_;
};

struct MeasuredLayout {
  models::Deployment deployment;
  double concurrency = 0;  ///< of one replica
};
/// Of an aggregated row. Throws Unsupported.
MeasuredLayout aggregated_layout(const MeasuredRow& row, bool experts);

/// Replicas that compute prompts, and others that compute all further tokens.
struct DisaggregatedLayout {
  models::Deployment prefill, decode;
  int prefill_replicas = 0, decode_replicas = 0;
  double concurrency = 0;  ///< of one decode replica
};
/// Of a row that tells the number of its replicas and how many requests were in flight. Throws Unsupported.
DisaggregatedLayout disaggregated_layout(const MeasuredRow& row, bool experts);

}  // namespace evictsim::sim
