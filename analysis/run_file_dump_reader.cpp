#include "analysis/run_file_dump_reader.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>
#include <utility>

#include "analysis/run_file_input.h"
#include "analysis/run_file_output.h"
#include "traces/error.h"
#include "traces/file_system.h"
#include "traces/isolation.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

hdf5::Node open_dump(const std::filesystem::path& path) {
  return open_result(path, "evictsim-dump", "`evictsim replay --dump kept.h5`");
}

RecordedProvenance read_root(const hdf5::Node& root) {
  RecordedProvenance recorded;
  recorded.evictsim_version = root.text_attribute("evictsim_version");
  recorded.command_line = root.text_attribute("command_line");
  recorded.seed = static_cast<std::uint64_t>(root.integer_attribute("seed"));
  recorded.complete = true;
  // Per trace: SHA-256, two spaces, path.
  std::istringstream lines(root.text_attribute("inputs"));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t gap = line.find("  ");
    if (gap == std::string::npos) {
      throw root.attribute_error("inputs", ErrorCode::not_a_trace, "names no trace: the file is damaged", line);
    }
    recorded.inputs.push_back({line.substr(gap + 2), line.substr(0, gap), {}});
  }
  return recorded;
}

/// Children called `prefix` and a number, by number.
std::vector<std::pair<std::int32_t, std::string>> numbered(const hdf5::Node& group, std::string_view prefix) {
  std::vector<std::pair<std::int32_t, std::string>> found;
  for (const std::string& name : group.names()) {
    std::int32_t number = 0;
    const char* const end = name.data() + name.size();
    if (!name.starts_with(prefix)) continue;
    if (std::from_chars(name.data() + prefix.size(), end, number).ptr == end) found.emplace_back(number, name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

struct DumpReader::Impl {
  explicit Impl(const std::filesystem::path& file) : path(file.string()) {
    traces::rehearse(file, traces::readable_file_size(file), [&] { (void)read_root(open_dump(file)); });
    root = open_dump(file);
    provenance = read_root(root);
  }

  [[nodiscard]] std::optional<hdf5::Node> find(const std::string& policy, const std::string& budget,
                                               const std::string& sequence) const {
    hdf5::Node group;
    const hdf5::Node* parent = &root;
    for (const std::string& name : {group_name(policy), budget, sequence}) {
      if (!parent->has_group(name)) return std::nullopt;
      group = parent->group(name);
      parent = &group;
    }
    return group;
  }

  std::string path;
  hdf5::Node root;
  RecordedProvenance provenance;
};

DumpReader::DumpReader(const std::filesystem::path& path) {
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path);
}

DumpReader::DumpReader(DumpReader&&) noexcept = default;
DumpReader& DumpReader::operator=(DumpReader&&) noexcept = default;

DumpReader::~DumpReader() {
  const hdf5::Guard guard;
  impl_.reset();
}

const std::string& DumpReader::path() const { return impl_->path; }

const RecordedProvenance& DumpReader::provenance() const { return impl_->provenance; }

std::optional<KeptBits> DumpReader::kept(const std::string& policy, const std::string& budget,
                                         const std::string& sequence, std::size_t prompt_length) const {
  const hdf5::Guard guard;
  const std::optional<hdf5::Node> group = impl_->find(policy, budget, sequence);
  if (!group) return std::nullopt;
  KeptBits bits;
  bits.entries = prompt_length;
  for (const auto& [layer, name] : numbered(*group, "layer_")) {
    const hdf5::Node heads = group->group(name);
    const auto names = numbered(heads, "head_");
    if (bits.layers++ == 0) bits.heads = names.size();
    if (names.size() != bits.heads) return std::nullopt;
    for (const auto& [head, head_name] : names) {
      const std::size_t row = bits.bytes.size() / std::max<std::size_t>(bits.row_bytes(), 1);
      bits.bytes.resize(bits.bytes.size() + bits.row_bytes(), 0);
      const hdf5::Node head_group = heads.group(head_name);
      for (const std::int32_t entry : read_integers(head_group, "kept")) {
        if (entry < 0 || static_cast<std::size_t>(entry) >= prompt_length) {
          throw head_group.error(ErrorCode::not_a_trace, "keeps an entry outside the prompt: the file is damaged");
        }
        bits.set(row, static_cast<std::size_t>(entry));
      }
    }
  }
  return bits;
}

std::vector<std::int32_t> DumpReader::layers(const std::string& policy, const std::string& budget,
                                             const std::string& sequence) const {
  const hdf5::Guard guard;
  std::vector<std::int32_t> indices;
  if (const auto group = impl_->find(policy, budget, sequence)) {
    for (const auto& [layer, name] : numbered(*group, "layer_")) indices.push_back(layer);
  }
  return indices;
}

}  // namespace evictsim::analysis
