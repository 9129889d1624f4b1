#include "analysis/run_file_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "analysis/dump_spool.h"
#include "analysis/run_file_output.h"
#include "analysis/version.h"

namespace evictsim::analysis {
namespace {

namespace hdf5 = traces::hdf5;

/// Rows of `resident` at which nothing is known: the layer has no query there.
constexpr std::uint8_t not_evaluated = 255;

void require_distinct_sequences(const std::vector<traces::Reader>& readers) {
  std::map<std::string, std::string> owners;
  for (const traces::Reader& reader : readers) {
    for (const traces::SequenceInfo& sequence : reader.sequences()) {
      const auto [owner, is_new] = owners.try_emplace(sequence.name, reader.path().string());
      if (is_new) continue;
      throw Error(
          ErrorCode::invalid_argument,
          fmt::format("sequence {} is in {} as well, and sequences name the dump's groups: dump one trace at a time",
                      sequence.name, owner->second),
          {.file = reader.path().string(), .dataset = {}, .parameter = {}, .value = {}});
    }
  }
}

/// Writes `values` [rows, length] compressed; the dataset is closed afterwards.
void write_resident(const hdf5::Node& head, std::size_t rows, std::size_t length,
                    const std::vector<std::uint8_t>& values) {
  constexpr hsize_t chunk_rows = 64;
  const std::array<hsize_t, 2> extents = {rows, length};
  const std::array<hsize_t, 2> chunk = {std::min<hsize_t>(rows, chunk_rows), length};
  const hdf5::Handle properties(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_obj_track_times(properties.get(), false);
  H5Pset_chunk(properties.get(), 2, chunk.data());
  H5Pset_deflate(properties.get(), 1);
  const hdf5::Handle space(H5Screate_simple(2, extents.data(), nullptr));
  const hdf5::Handle dataset(
      H5Dcreate2(head.id(), "resident", H5T_STD_U8LE, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT));
  if (!dataset.valid()) throw head.error(ErrorCode::io_failure, "cannot create the dataset resident");
  if (H5Dwrite(dataset.get(), H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw head.error(ErrorCode::io_failure, "the dataset resident cannot be written");
  }
}

/// Eight entries of 0 or 1 in a byte.
std::vector<std::uint8_t> packed(const std::vector<std::uint8_t>& bits) {
  std::vector<std::uint8_t> bytes((bits.size() + 7) / 8);
  for (std::size_t index = 0; index < bits.size(); ++index) {
    bytes[index / 8] = static_cast<std::uint8_t>(bytes[index / 8] | (bits[index] << (index % 8)));
  }
  return bytes;
}

/// Rows of `resident` that one block brought.
struct ResidentBlock {
  std::vector<std::int32_t> rows;
  std::vector<DumpSpool::Place> heads;  ///< [cache head] packed bits of [rows, length]
};

/// What has arrived of one point in one layer.
struct LayerRecord {
  std::vector<DumpSpool::Place> kept, scores;  ///< [cache head]
  std::vector<ResidentBlock> resident;         ///< in row order
};

}  // namespace

struct DumpObserver::Impl {
  Impl(const std::filesystem::path& path, const sim::ReplayPlan& replay_plan, const Provenance& provenance)
      : plan(replay_plan), file(path), spool(path) {
    const hdf5::Node& root = file.root();
    root.set_attribute("format", std::string("evictsim-dump"));
    root.set_attribute("format_version", std::int64_t{1});
    root.set_attribute("evictsim_version", std::string(version()));
    root.set_attribute("command_line", provenance.command_line);
    root.set_attribute("seed", static_cast<std::int64_t>(provenance.seed));
    std::string inputs;
    for (const Provenance::Input& input : provenance.inputs) inputs += input.checksum + "  " + input.path + "\n";
    root.set_attribute("inputs", inputs);
  }

  [[nodiscard]] hdf5::Node budget_group(std::size_t point) const {
    const policies::Policy& policy = plan.policies[plan.points[point].policy];
    const policies::Budget& budget = plan.points[point].budget;
    const hdf5::Node policy_group = group_in(file.root(), group_name(policy.name));
    if (!policy_group.has_attribute("policy")) {
      policy_group.set_attribute("policy", policy.name);
      policy_group.set_attribute("expansion", policy.expansion);
      link_text(file.root(), policy.name);
    }
    hdf5::Node group = group_in(policy_group, budget.text());
    if (!group.has_attribute("budget")) group.set_attribute("budget", budget.value());
    return group;
  }

  [[nodiscard]] bool has_failed(std::size_t point) const { return failures.contains(plan.points[point].policy); }

  void keep_cut(const sim::PromptCut& cut) {
    LayerRecord& record = records[{cut.point, cut.layer}];
    for (const std::vector<std::int32_t>& kept : cut.kept) record.kept.push_back(spool.append(kept));
    for (const std::vector<float>& scores : cut.scores) record.scores.push_back(spool.append(scores));
  }

  void keep_resident(const sim::LayerBlock& block) {
    ResidentBlock& kept = records[{block.point, block.layer}].resident.emplace_back();
    kept.rows.assign(block.rows.begin(), block.rows.end());
    for (const std::vector<std::uint8_t>& head : block.resident_rows) kept.heads.push_back(spool.append(packed(head)));
  }

  /// Writes the sequence in the order of points, layers and heads, whatever order they came in.
  void write_sequence() const {
    for (std::size_t point = 0; point < plan.points.size(); ++point) {
      const auto first = records.lower_bound({point, 0});
      const auto last = records.lower_bound({point + 1, 0});
      if (first == last && !has_failed(point)) continue;
      const hdf5::Node budget = budget_group(point);
      if (has_failed(point)) continue;
      const hdf5::Node sequence = budget.create_group(start->name);
      sequence.set_attribute("trace", start->trace_path);
      const bool walks = std::any_of(first, last, [](const auto& record) { return !record.second.resident.empty(); });
      if (walks) sequence.write_integers("rows", {start->decode_rows.size()}, start->decode_rows);
      for (auto record = first; record != last; ++record) {
        const int layer = start->layers[record->first.second];
        write_layer(sequence.create_group(fmt::format("layer_{:03}", layer)), record->second);
      }
    }
  }

  void write_layer(const hdf5::Node& layer, const LayerRecord& record) const {
    for (std::size_t index = 0; index < record.kept.size(); ++index) {
      const hdf5::Node head = layer.create_group("head_" + std::to_string(index));
      head.write_integers("kept", {record.kept[index].count}, spool.read<std::int32_t>(record.kept[index]));
      if (index < record.scores.size()) {
        const std::vector<float> scores = spool.read<float>(record.scores[index]);
        const hdf5::Node dataset = head.create_dataset("score", H5T_IEEE_F32LE, {scores.size()});
        dataset.write_rows({scores.size()}, 0, scores.size(), scores.data());
      }
      if (!record.resident.empty()) {
        write_resident(head, start->decode_rows.size(), static_cast<std::size_t>(start->length),
                       resident_of(record, index));
      }
    }
  }

  /// [decode rows, length] of one head.
  [[nodiscard]] std::vector<std::uint8_t> resident_of(const LayerRecord& record, std::size_t head) const {
    const std::vector<std::int32_t>& all_rows = start->decode_rows;
    const auto length = static_cast<std::size_t>(start->length);
    std::vector<std::uint8_t> values(all_rows.size() * length, not_evaluated);
    for (const ResidentBlock& block : record.resident) {
      const std::vector<std::uint8_t> bits = spool.read<std::uint8_t>(block.heads[head]);
      for (std::size_t row = 0; row < block.rows.size(); ++row) {
        const auto place = std::lower_bound(all_rows.begin(), all_rows.end(), block.rows[row]) - all_rows.begin();
        std::uint8_t* target = values.data() + static_cast<std::size_t>(place) * length;
        for (std::size_t entry = 0; entry < length; ++entry) {
          const std::size_t bit = row * length + entry;
          target[entry] = static_cast<std::uint8_t>((bits[bit / 8] >> (bit % 8)) & 1);
        }
      }
    }
    return values;
  }

  void drop_sequence() {
    start.reset();
    failures.clear();
    records.clear();
    spool.clear();
  }

  const sim::ReplayPlan& plan;
  std::optional<sim::SequenceStart> start;  ///< of the sequence in progress
  std::set<std::size_t> failures;           ///< policies that failed in it
  PendingFile file;
  DumpSpool spool;
  std::map<std::pair<std::size_t, std::size_t>, LayerRecord> records;  ///< by point and layer
};

DumpObserver::DumpObserver(const std::filesystem::path& path, const sim::ReplayPlan& plan,
                           const std::vector<traces::Reader>& readers, const Provenance& provenance,
                           sim::ReplayObserver& next)
    : ForwardingObserver(next) {
  require_distinct_sequences(readers);
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path, plan, provenance);
}

DumpObserver::~DumpObserver() {
  const hdf5::Guard guard;
  impl_.reset();
}

void DumpObserver::begin_sequence(const sim::SequenceStart& start) {
  impl_->start = start;
  ForwardingObserver::begin_sequence(start);
}

void DumpObserver::failed(std::size_t policy, const std::string& why) {
  impl_->failures.insert(policy);
  ForwardingObserver::failed(policy, why);
}

void DumpObserver::prompt_cut(sim::PromptCut&& cut) {
  impl_->keep_cut(cut);
  ForwardingObserver::prompt_cut(std::move(cut));
}

void DumpObserver::layer_block(const sim::LayerBlock& block) {
  if (!block.resident_rows.empty() && !impl_->has_failed(block.point)) impl_->keep_resident(block);
  ForwardingObserver::layer_block(block);
}

void DumpObserver::end_sequence() {
  {
    const hdf5::Guard guard;
    impl_->write_sequence();
    impl_->drop_sequence();
  }
  ForwardingObserver::end_sequence();
}

void DumpObserver::seal() {
  const hdf5::Guard guard;
  impl_->file.seal();
}

}  // namespace evictsim::analysis
