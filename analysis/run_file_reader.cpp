#include "analysis/run_file_reader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "analysis/run_file_input.h"
#include "analysis/run_file_output.h"
#include "traces/error.h"
#include "traces/file_system.h"
#include "traces/isolation.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

[[noreturn]] void refuse(const hdf5::Node& node, const std::string& what) {
  throw node.error(ErrorCode::not_a_trace, what + ": the file is damaged");
}

hdf5::Node open_run(const std::filesystem::path& path) {
  return open_result(path, "evictsim-run", "`evictsim replay -o run.h5`");
}

RunContents read_contents(const hdf5::Node& root, const std::string& path) {
  RunContents contents;
  contents.path = path;
  contents.provenance = read_provenance(root);
  contents.rows = read_rows(root);
  const hdf5::Node group = root.group("policies");
  std::vector<std::string> names = read_texts(group, "name"), expansions = read_texts(group, "expansion"),
                           statuses = read_texts(group, "status");
  if (expansions.size() != names.size() || statuses.size() != names.size()) {
    refuse(group, "has columns of different lengths");
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    contents.policies.push_back({std::move(names[i]), std::move(expansions[i]), std::move(statuses[i])});
  }
  if (!root.has_group("profile")) return contents;
  const hdf5::Node profile = root.group("profile");
  const std::vector<std::int64_t> kv_heads = read_counts(profile, "kv_heads");
  const std::vector<double> entry_bytes = read_reals(profile, "entry_bytes");
  if (kv_heads.size() != contents.rows.size() || entry_bytes.size() != contents.rows.size()) {
    refuse(profile, "has columns of different lengths");
  }
  for (std::size_t i = 0; i < kv_heads.size(); ++i) {
    const RunRow& row = contents.rows[i];
    contents.full_bytes.push_back(static_cast<double>(row.prompt_length) * static_cast<double>(row.layers) *
                                  static_cast<double>(kv_heads[i]) * entry_bytes[i]);
  }
  return contents;
}

std::vector<std::string> split(const std::string& axes) {
  std::vector<std::string> names;
  std::size_t begin = 0;
  while (begin < axes.size()) {
    const std::size_t comma = std::min(axes.find(',', begin), axes.size());
    names.push_back(axes.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return names;
}

bool summed_over_layers(const std::string& metric) { return metric == "squared_error" || metric.ends_with("_bytes"); }

/// The same without one axis: the mean, or sum, of what is available.
void reduce(DetailArray& array, std::vector<std::string>& axes, std::size_t axis, bool sum) {
  std::size_t outer = 1, inner = 1;
  for (std::size_t i = 0; i < axis; ++i) outer *= array.shape[i];
  for (std::size_t i = axis + 1; i < array.shape.size(); ++i) inner *= array.shape[i];
  const std::size_t extent = array.shape[axis];
  std::vector<double> values(outer * inner, not_available);
  for (std::size_t i = 0; i < outer; ++i) {
    for (std::size_t k = 0; k < inner; ++k) {
      double total = 0, count = 0;
      for (std::size_t j = 0; j < extent; ++j) {
        const double value = array.values[(i * extent + j) * inner + k];
        if (std::isnan(value)) continue;
        total += value;
        ++count;
      }
      if (count > 0) values[i * inner + k] = sum ? total : total / count;
    }
  }
  array.values = std::move(values);
  array.shape.erase(array.shape.begin() + static_cast<std::ptrdiff_t>(axis));
  axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(axis));
}

/// False where `stored` lacks an axis of `wanted`.
bool reduce_to(DetailArray& array, const std::string& wanted) {
  std::vector<std::string> axes = split(array.axes);
  const std::vector<std::string> kept = split(wanted);
  const auto has = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (!std::all_of(kept.begin(), kept.end(), [&](const std::string& name) { return has(axes, name); })) return false;
  // Rows and heads of a layer first, then layers.
  for (const char* name : {"step", "head", "layer", "entry"}) {
    const auto place = std::find(axes.begin(), axes.end(), name);
    if (place == axes.end() || has(kept, name)) continue;
    const bool sum = std::string(name) == "layer" && summed_over_layers(array.name);
    reduce(array, axes, static_cast<std::size_t>(place - axes.begin()), sum);
  }
  array.axes = wanted;
  return axes == kept;
}

/// A dataset of bits, by layer and head.
KeptBits read_bits(const hdf5::Node& group, const std::string& name) {
  const hdf5::Node dataset = group.dataset(name);
  KeptBits bits;
  const std::int64_t entries = dataset.integer_attribute("entries");
  std::vector<std::size_t> shape;
  bits.bytes = read_bytes(group, name, shape);
  if (entries < 0 || shape.size() != 3 || shape[2] != (static_cast<std::size_t>(entries) + 7) / 8) {
    refuse(dataset, "has another shape than a run file's");
  }
  bits.layers = shape[0];
  bits.heads = shape[1];
  bits.entries = static_cast<std::size_t>(entries);
  return bits;
}

std::vector<double> values_of(const KeptBits& bits) {
  std::vector<double> values;
  for (std::size_t row = 0; row < bits.layers * bits.heads; ++row) {
    for (std::size_t entry = 0; entry < bits.entries; ++entry) values.push_back(bits.test(row, entry) ? 1 : 0);
  }
  return values;
}

std::optional<DetailArray> read_detail(const hdf5::Node& group, const std::string& metric, const std::string& axes) {
  if (!group.has(metric)) return std::nullopt;
  DetailArray array;
  const hdf5::Node dataset = group.dataset(metric);
  if (!dataset.has_attribute("axes")) return std::nullopt;
  array.name = metric;
  array.axes = dataset.text_attribute("axes");
  if (dataset.has_attribute("packed")) {
    const KeptBits bits = read_bits(group, metric);
    array.shape = {bits.layers, bits.heads, bits.entries};
    array.values = values_of(bits);
  } else {
    array.values = read_array(group, metric, array.shape);
  }
  if (array.shape.size() != split(array.axes).size()) refuse(dataset, "has other axes than it says");
  if (!reduce_to(array, axes)) return std::nullopt;
  return array;
}

}  // namespace

struct RunReader::Impl {
  explicit Impl(const std::filesystem::path& path) {
    // Texts lie where HDF5 keeps no checksums: what a damaged file makes of them shows in a child first.
    traces::rehearse(path, traces::readable_file_size(path), [&] { (void)read_contents(open_run(path), {}); });
    root = open_run(path);
    contents = read_contents(root, path.string());
    if (!root.has_group("detail")) return;
    const hdf5::Node detail = root.group("detail");
    for (const std::string& name : detail.names()) {
      const hdf5::Node trace = detail.group(name);
      if (trace.has_attribute("path")) traces.emplace(trace.text_attribute("path"), name);
    }
  }

  /// The group of a row's sequence, of its point with `point`; null without detail.
  const hdf5::Node* find(std::size_t row, bool point) {
    const auto wanted = std::pair(row, point);
    if (found_for == wanted) return found ? &*found : nullptr;
    found.reset();
    found_for = wanted;
    const RunRow& of = contents.rows.at(row);
    const auto trace = traces.find(of.trace);
    if (trace == traces.end()) return nullptr;
    hdf5::Node node = root.group("detail").group(trace->second);
    std::vector<std::string> path = {of.sequence};
    if (point) path.insert(path.end(), {group_name(of.policy), of.budget});
    for (const std::string& name : path) {
      if (!node.has_group(name)) return nullptr;
      node = node.group(name);
    }
    return &found.emplace(std::move(node));
  }

  std::optional<DetailArray> detail(std::size_t row, bool point, const std::string& metric, const std::string& axes) {
    const hdf5::Node* group = find(row, point);
    if (group == nullptr) return std::nullopt;
    if (auto array = read_detail(*group, metric, axes)) return array;
    const std::string apart = "by_" + axes;
    if (group->has_group(apart)) return read_detail(group->group(apart), metric, axes);
    return std::nullopt;
  }

  /// What the dump says that the cut of this row kept.
  [[nodiscard]] std::optional<KeptBits> dumped(std::size_t row) const {
    const RunRow& of = contents.rows.at(row);
    if (!dump || of.prompt_length < 1) return std::nullopt;
    return dump->kept(of.policy, of.budget, of.sequence, static_cast<std::size_t>(of.prompt_length));
  }

  std::vector<std::int32_t> coordinates(std::size_t row, const char* name) {
    const hdf5::Node* sequence = find(row, false);
    if (sequence == nullptr || !sequence->has(name)) return {};
    return read_integers(*sequence, name);
  }

  hdf5::Node root;
  RunContents contents;
  std::map<std::string, std::string> traces;  ///< group of `/detail` by path
  std::pair<std::size_t, bool> found_for = {SIZE_MAX, false};
  std::optional<hdf5::Node> found;
  std::shared_ptr<const DumpReader> dump;
};

RunReader::RunReader(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path);
}

RunReader::RunReader(RunReader&&) noexcept = default;
RunReader& RunReader::operator=(RunReader&&) noexcept = default;

RunReader::~RunReader() {
  const hdf5::Guard guard;
  impl_.reset();
}

const RunContents& RunReader::contents() const { return impl_->contents; }

bool RunReader::fits(const DumpReader& dump) const {
  const auto known = [&](const Provenance::Input& input) {
    const auto& mine = impl_->contents.provenance.inputs;
    return std::any_of(mine.begin(), mine.end(),
                       [&](const Provenance::Input& other) { return other.checksum == input.checksum; });
  };
  const auto& inputs = dump.provenance().inputs;
  return std::any_of(inputs.begin(), inputs.end(), known);
}

void RunReader::use(std::shared_ptr<const DumpReader> dump) { impl_->dump = std::move(dump); }

std::optional<DetailArray> RunReader::detail(std::size_t row, const std::string& metric,
                                             const std::string& axes) const {
  const hdf5::Guard guard;
  auto array = impl_->detail(row, true, metric, axes);
  if (array || metric != "entry_kept") return array;
  const std::optional<KeptBits> bits = impl_->dumped(row);
  if (!bits) return std::nullopt;
  array = {metric, "layer,head,entry", {bits->layers, bits->heads, bits->entries}, values_of(*bits)};
  if (!reduce_to(*array, axes)) return std::nullopt;
  return array;
}

std::optional<DetailArray> RunReader::full_detail(std::size_t row, const std::string& metric,
                                                  const std::string& axes) const {
  const hdf5::Guard guard;
  return impl_->detail(row, false, metric, axes);
}

std::optional<KeptBits> RunReader::kept(std::size_t row) const {
  const hdf5::Guard guard;
  const hdf5::Node* group = impl_->find(row, true);
  if (group != nullptr && group->has("entry_kept") && group->dataset("entry_kept").has_attribute("packed")) {
    return read_bits(*group, "entry_kept");
  }
  return impl_->dumped(row);
}

std::vector<std::int32_t> RunReader::layers(std::size_t row) const {
  const hdf5::Guard guard;
  std::vector<std::int32_t> layers = impl_->coordinates(row, "layers");
  const RunRow& of = impl_->contents.rows.at(row);
  if (layers.empty() && impl_->dump) layers = impl_->dump->layers(of.policy, of.budget, of.sequence);
  return layers;
}

std::vector<std::int32_t> RunReader::steps(std::size_t row) const {
  const hdf5::Guard guard;
  return impl_->coordinates(row, "steps");
}

}  // namespace evictsim::analysis
