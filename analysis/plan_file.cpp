#include "analysis/plan_file.h"

#include <algorithm>
#include <array>
#include <utility>

#include "analysis/run_file_input.h"
#include "analysis/run_file_output.h"
#include "traces/error.h"
#include "traces/file_system.h"
#include "traces/isolation.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;
using Lines = std::vector<models::KvBudgetLine>;

/// The series of all rows, one behind the other, in a table.
constexpr std::array series_columns = {
    std::pair{"seconds", &PlanSeries::seconds}, std::pair{"kv_tokens", &PlanSeries::kv_tokens},
    std::pair{"running", &PlanSeries::running}, std::pair{"waiting", &PlanSeries::waiting}};

bool same_lines(const Lines& left, const Lines& right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(), [](const auto& one, const auto& other) {
    return one.name == other.name && one.bytes == other.bytes && one.how == other.how;
  });
}

void write_series(const hdf5::Node& root, const std::vector<PlanBackground>& backgrounds) {
  const hdf5::Node group = root.create_group("over_time");
  std::vector<std::int32_t> rows;
  std::vector<double> capacities;
  for (std::size_t row = 0; row < backgrounds.size(); ++row) {
    rows.insert(rows.end(), backgrounds[row].series.seconds.size(), static_cast<std::int32_t>(row));
    capacities.resize(rows.size(), backgrounds[row].series.kv_capacity_tokens);
  }
  group.write_integers("row", {rows.size()}, rows);
  write_array(group, "kv_capacity_tokens", {rows.size()}, capacities);
  for (const auto& [name, member] : series_columns) {
    std::vector<double> values;
    for (const PlanBackground& background : backgrounds) {
      const std::vector<double>& of_row = background.series.*member;
      values.insert(values.end(), of_row.begin(), of_row.end());
    }
    write_array(group, name, {values.size()}, values);
  }
}

/// Rows of one deployment share their lines: they are written once, for the first of them.
void write_budgets(const hdf5::Node& root, const std::vector<PlanBackground>& backgrounds) {
  const hdf5::Node group = root.create_group("kv_budget");
  std::vector<std::int32_t> of_row, rows;
  Lines lines;
  for (std::size_t row = 0; row < backgrounds.size(); ++row) {
    const Lines& mine = backgrounds[row].kv_budget;
    if (mine.empty()) {
      of_row.push_back(-1);
      continue;
    }
    const auto known = std::find_if(backgrounds.begin(), backgrounds.end(), [&](const PlanBackground& background) {
      return same_lines(background.kv_budget, mine);
    });
    const auto first = static_cast<std::size_t>(known - backgrounds.begin());
    of_row.push_back(static_cast<std::int32_t>(first));
    if (first != row) continue;
    rows.insert(rows.end(), mine.size(), static_cast<std::int32_t>(row));
    lines.insert(lines.end(), mine.begin(), mine.end());
  }
  group.write_integers("of_row", {of_row.size()}, of_row);
  group.write_integers("row", {rows.size()}, rows);
  write_texts(group, "name", column(lines, [](const models::KvBudgetLine& line) { return line.name; }));
  write_counts(group, "bytes", column(lines, [](const models::KvBudgetLine& line) { return line.bytes; }));
  write_texts(group, "how", column(lines, [](const models::KvBudgetLine& line) { return line.how; }));
}

[[noreturn]] void refuse(const hdf5::Node& node, const std::string& what) {
  throw node.error(ErrorCode::not_a_trace, what + ": the file is damaged");
}

std::size_t row_in(const hdf5::Node& group, std::int32_t row, const PlanContents& contents) {
  if (row < 0 || static_cast<std::size_t>(row) >= contents.rows.size()) refuse(group, "names a row that is not");
  return static_cast<std::size_t>(row);
}

void read_rows(const hdf5::Node& root, PlanContents& contents) {
  const hdf5::Node group = root.group("rows");
  contents.rows.resize(read_texts(group, "status").size());
  contents.backgrounds.resize(contents.rows.size());
  const auto put = [&](auto&& values, auto member) {
    if (values.size() != contents.rows.size()) refuse(group, "has columns of different lengths");
    for (std::size_t i = 0; i < values.size(); ++i) contents.rows[i].*member = std::move(values[i]);
  };
  for (const PlanColumn& source : plan_columns()) {
    if (!group.has(source.name)) continue;
    if (source.text != nullptr) {
      put(read_texts(group, source.name), source.text);
    } else {
      put(read_reals(group, source.name), source.number);
    }
  }
}

void read_series(const hdf5::Node& root, PlanContents& contents) {
  if (!root.has_group("over_time")) return;
  const hdf5::Node group = root.group("over_time");
  const std::vector<std::int32_t> rows = read_integers(group, "row");
  const std::vector<double> capacities = read_reals(group, "kv_capacity_tokens");
  if (capacities.size() != rows.size()) refuse(group, "has columns of different lengths");
  for (const auto& [name, member] : series_columns) {
    const std::vector<double> values = read_reals(group, name);
    if (values.size() != rows.size()) refuse(group, "has columns of different lengths");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      PlanSeries& series = contents.backgrounds[row_in(group, rows[i], contents)].series;
      series.kv_capacity_tokens = capacities[i];
      (series.*member).push_back(values[i]);
    }
  }
}

void read_budgets(const hdf5::Node& root, PlanContents& contents) {
  if (!root.has_group("kv_budget")) return;
  const hdf5::Node group = root.group("kv_budget");
  const std::vector<std::int32_t> of_row = read_integers(group, "of_row"), rows = read_integers(group, "row");
  const std::vector<std::int64_t> bytes = read_counts(group, "bytes");
  const std::vector<std::string> names = read_texts(group, "name"), how = read_texts(group, "how");
  if (of_row.size() != contents.rows.size() || bytes.size() != rows.size() || names.size() != rows.size() ||
      how.size() != rows.size()) {
    refuse(group, "has columns of different lengths");
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    contents.backgrounds[row_in(group, rows[i], contents)].kv_budget.push_back({names[i], bytes[i], how[i]});
  }
  for (std::size_t row = 0; row < of_row.size(); ++row) {
    if (of_row[row] == -1) continue;
    const std::size_t first = row_in(group, of_row[row], contents);
    if (first != row) contents.backgrounds[row].kv_budget = contents.backgrounds[first].kv_budget;
  }
}

PlanContents read_contents(const std::filesystem::path& path) {
  const hdf5::Node root = open_result(path, "evictsim-plan", "`evictsim plan -o plan.h5`");
  PlanContents contents;
  contents.path = path.string();
  contents.provenance = read_provenance(root);
  read_rows(root, contents);
  read_series(root, contents);
  read_budgets(root, contents);
  return contents;
}

}  // namespace

struct PlanFile::Impl {
  Impl(const std::filesystem::path& path, Provenance where_from) : provenance(std::move(where_from)), file(path) {}

  Provenance provenance;
  std::vector<PlanRow> rows;
  std::vector<PlanBackground> backgrounds;
  PendingFile file;
};

PlanFile::PlanFile(const std::filesystem::path& path, Provenance provenance) {
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path, std::move(provenance));
}

PlanFile::~PlanFile() {
  const hdf5::Guard guard;
  impl_.reset();
}

void PlanFile::add(const PlanRow& row, PlanBackground background) {
  impl_->rows.push_back(row);
  impl_->backgrounds.push_back(std::move(background));
}

void PlanFile::seal(bool complete) {
  const hdf5::Guard guard;
  const hdf5::Node& root = impl_->file.root();
  root.set_attribute("format", std::string("evictsim-plan"));
  root.set_attribute("format_version", std::int64_t{1});
  const hdf5::Node group = root.create_group("rows");
  for (const PlanColumn& source : plan_columns()) {
    if (source.text != nullptr) {
      write_texts(group, source.name, column(impl_->rows, [&](const PlanRow& row) { return row.*source.text; }));
    } else {
      write_array(group, source.name, {impl_->rows.size()},
                  column(impl_->rows, [&](const PlanRow& row) { return row.*source.number; }));
    }
  }
  write_series(root, impl_->backgrounds);
  write_budgets(root, impl_->backgrounds);
  write_provenance(root, impl_->provenance, complete);
  impl_->file.seal();
}

PlanContents read_plan(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  // Texts lie where HDF5 keeps no checksums: what a damaged file makes of them shows in a child first.
  traces::rehearse(path, traces::readable_file_size(path), [&] { (void)read_contents(path); });
  return read_contents(path);
}

}  // namespace evictsim::analysis
