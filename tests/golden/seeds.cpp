#include "tests/golden/seeds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>

#include "policies/call.h"

namespace evictsim::test {
namespace {

using Rows = std::vector<std::int32_t>;

constexpr double without_score = std::numeric_limits<float>::max();

/// FILE in a policy is the golden file itself.
std::string with_file(std::string policy, const std::string& path) {
  const std::string word = "FILE";
  const std::size_t first = policy.find(word);
  if (first == std::string::npos) return policy;
  const std::size_t last = policy.find_first_of(",)", first);
  const std::string rest = policy.substr(first + word.size(), last - first - word.size());
  return policy.substr(0, first) + policies::quote_word(path + rest) + policy.substr(last);
}

/// Budgets of seeds-a stand in the name; those of seeds-b are counted in the attribute `entries` (one policy has none
/// and does not look at its budget).
std::string budget_of(const SeedGroup& group, const std::string& name) {
  if (group.file.starts_with("seeds-a")) return name;
  const std::string& entries = group.attributes.at("entries");
  return entries == "0" ? "0.5" : entries;
}

std::string layer_name(int layer) { return fmt::format("/layer_{:03}", layer); }
std::string head_name(std::size_t head) { return fmt::format("/head_{}", head); }

Rows rows_of(const double* values, std::size_t count) {
  Rows rows;
  for (std::size_t i = 0; i < count; ++i) {
    if (values[i] >= 0) rows.push_back(static_cast<std::int32_t>(values[i]));
  }
  return rows;
}

/// Positions that line `line` of an array marks, whatever axes count the lines.
Rows marked(const H5Array& marks, std::size_t line) {
  const std::size_t length = marks.shape.back();
  Rows entries;
  for (std::size_t t = 0; t < length; ++t) {
    if (marks.values[line * length + t] != 0) entries.push_back(static_cast<std::int32_t>(t));
  }
  return entries;
}

class Comparison {
 public:
  Comparison(const SeedGroup& group, double tolerance)
      : group_(group),
        tolerance_(tolerance),
        ours_(replay_golden(group.trace, group.policy, policies::Budget::parse(group.budget), true)),
        golden_(golden_path(group.file + ".golden.h5")) {
    if (golden_.has(group.path + "/resident")) packed_resident_ = golden_.read(group.path + "/resident");
    if (golden_.has(group.path + "/score")) packed_score_ = golden_.read(group.path + "/score");
  }

  SeedAgreement run() {
    if (!ours_.skipped_policies.empty()) {
      fault("skipped: " + ours_.skipped_policies.begin()->second);
      return result_;
    }
    for (std::size_t slot = 0; slot < ours_.start.layers.size(); ++slot) compare_prompt(slot);
    if (result_.first_fault.empty()) result_.first_fault = result_.prompt.first_fault;
    // A tie that went the other way after the prompt changes what follows.
    if (result_.prompt.tied_sets == 0) compare_rows();
    return result_;
  }

 private:
  void fault(const std::string& what) {
    ++result_.unequal;
    if (result_.first_fault.empty()) result_.first_fault = what;
  }

  void compare_prompt(std::size_t slot) {
    const sim::PromptCut& cut = ours_.cuts.at({0, slot});
    const std::string layer = layer_name(ours_.start.layers[slot]);
    Scores golden_scores;
    std::vector<Rows> golden_kept;
    std::vector<std::vector<float>> scores;
    std::vector<Rows> kept;
    for (std::size_t head = 0; head < cut.kept.size(); ++head) {
      if (packed_resident_) {
        golden_kept.push_back(marked(*packed_resident_, slot * cut.kept.size() + head));
      } else {
        const std::string path = group_.path + layer + head_name(head) + "/kept";
        if (!golden_.has(path)) return;
        const std::vector<double> positions = golden_.read(path).values;
        golden_kept.push_back(rows_of(positions.data(), positions.size()));
      }
      kept.push_back(cut.kept[head]);
      add_scores(slot, head, cut, golden_scores, scores);
    }
    result_.prompt.add(compare_layer(golden_scores, golden_kept, scores, kept, tolerance_, false));
    for (std::size_t head = 0; head < kept.size(); ++head) {
      const bool has_scores = std::any_of(golden_scores[head].begin(), golden_scores[head].end(),
                                          [](double score) { return score != without_score; });
      if (!has_scores && kept[head] != golden_kept[head]) fault("a set differs" + layer + head_name(head));
    }
  }

  /// Rows of equal length; entries that either side gives no score (protected ones) count as the largest.
  void add_scores(std::size_t slot, std::size_t head, const sim::PromptCut& cut, Scores& golden_scores,
                  std::vector<std::vector<float>>& scores) const {
    const auto length = static_cast<std::size_t>(ours_.start.prompt_length);
    std::vector<double> golden = golden_row(slot, head);
    std::vector<float> own = cut.scores.empty() ? std::vector<float>() : cut.scores[head];
    const bool comparable = !golden.empty() && !own.empty();
    golden.resize(length, std::nan(""));
    own.resize(length, std::nanf(""));
    for (std::size_t i = 0; i < length; ++i) {
      if (comparable && !std::isnan(golden[i]) && !std::isnan(own[i])) continue;
      golden[i] = without_score;
      own[i] = std::numeric_limits<float>::max();
    }
    golden_scores.push_back(std::move(golden));
    scores.push_back(std::move(own));
  }

  /// Empty where the group holds none, or none that ours must equal.
  [[nodiscard]] std::vector<double> golden_row(std::size_t slot, std::size_t head) const {
    if (group_.id == "sagekv") return {};  // the row is for orientation: every query head ranks alone
    if (packed_score_) {
      const std::size_t length = packed_score_->shape[2];
      const auto first = static_cast<std::ptrdiff_t>((slot * packed_score_->shape[1] + head) * length);
      return {packed_score_->values.begin() + first,
              packed_score_->values.begin() + first + static_cast<std::ptrdiff_t>(length)};
    }
    const std::string layer = layer_name(ours_.start.layers[slot]);
    const std::string own = group_.path + layer + head_name(head) + "/score";
    const std::string shared = "/" + group_.id + "/score" + layer + head_name(head);
    std::vector<double> row;
    if (golden_.has(own)) {
      row = golden_.read(own).values;
    } else if (golden_.has(shared)) {
      row = golden_.read(shared).values;
    }
    // The mean over the window, where ours is the sum.
    if (group_.id.starts_with("adakv-")) {
      for (double& score : row) score *= std::stod(group_.attributes.at("window"));
    }
    return row;
  }

  /// Golden residents of one head: token rows after which they were read, and the entries then.
  struct Residents {
    std::vector<double> rows;
    std::vector<Rows> entries;
  };

  [[nodiscard]] std::optional<Residents> residents(std::size_t slot, std::size_t head) const {
    const std::string place = layer_name(ours_.start.layers[slot]) + head_name(head);
    const std::string decoded = group_.path + "/decode" + place + "/kept";
    const std::string own = group_.path + place + "/resident";
    Residents residents;
    if (packed_resident_) {
      const std::vector<double> rows = golden_.read(group_.path + "/rows").values;
      residents.rows.assign(rows.begin() + 1, rows.end());  // the prompt's set is compared with its scores
      const std::size_t layers = packed_resident_->shape[1];
      const std::size_t heads = packed_resident_->shape[2];
      for (std::size_t r = 1; r < rows.size(); ++r) {
        residents.entries.push_back(marked(*packed_resident_, (r * layers + slot) * heads + head));
      }
      return residents;
    }
    if (golden_.has(decoded)) {
      residents.rows = golden_.read(group_.path + "/decode/rows").values;
      const H5Array kept = golden_.read(decoded);
      for (std::size_t r = 0; r < kept.shape[0]; ++r) {
        residents.entries.push_back(rows_of(&kept.values[r * kept.shape[1]], kept.shape[1]));
      }
      return residents;
    }
    if (!golden_.has(own)) return std::nullopt;
    residents.rows = golden_.read(group_.path + "/rows").values;
    const H5Array marks = golden_.read(own);
    for (std::size_t r = 0; r < marks.shape[0]; ++r) residents.entries.push_back(marked(marks, r));
    return residents;
  }

  /// What is resident in ours after token row `row`; nothing for rows before the prompt's last.
  [[nodiscard]] std::optional<Rows> resident(std::size_t slot, std::size_t head, std::int32_t row) const {
    if (row == ours_.start.prompt_length - 1) return ours_.cuts.at({0, slot}).kept[head];
    const CollectedRows& collected = ours_.rows.at({0, slot});
    const auto found = std::find(collected.rows.begin(), collected.rows.end(), row);
    if (found == collected.rows.end()) return std::nullopt;
    const auto length = static_cast<std::size_t>(ours_.start.length);
    const auto first = static_cast<std::size_t>(found - collected.rows.begin()) * length;
    Rows entries;
    for (std::size_t entry = 0; entry < length; ++entry) {
      if (collected.resident_rows[head][first + entry] != 0) entries.push_back(static_cast<std::int32_t>(entry));
    }
    return entries;
  }

  /// Row after row over all layers and heads, so that nothing behind a legitimate swap is compared.
  void compare_rows() {
    std::map<std::pair<std::size_t, std::size_t>, Residents> all;
    std::vector<double> rows;
    for (std::size_t slot = 0; slot < ours_.start.layers.size(); ++slot) {
      for (std::size_t head = 0; head < ours_.cuts.at({0, slot}).kept.size(); ++head) {
        auto golden = residents(slot, head);
        if (!golden) continue;
        rows = golden->rows;
        all[{slot, head}] = std::move(*golden);
      }
    }
    for (std::size_t r = 0; r < rows.size() && !result_.swapped; ++r) {
      for (const auto& [place, golden] : all) compare_row(place.first, place.second, golden, r);
    }
  }

  void compare_row(std::size_t slot, std::size_t head, const Residents& golden, std::size_t r) {
    const auto row = static_cast<std::int32_t>(golden.rows[r]);
    std::optional<Rows> ours = resident(slot, head, row);
    if (!ours) return;
    if (group_.attributes.contains("decode_kept")) {  // lists generated entries only; the prompt is always there
      const auto generated = std::lower_bound(ours->begin(), ours->end(), ours_.start.prompt_length);
      if (generated - ours->begin() != ours_.start.prompt_length) fault("an entry of the prompt is gone");
      ours->erase(ours->begin(), generated);
    }
    if (*ours == golden.entries[r]) {
      ++result_.rows;
      return;
    }
    Rows lost;
    std::set_difference(golden.entries[r].begin(), golden.entries[r].end(), ours->begin(), ours->end(),
                        std::back_inserter(lost));
    if (near_tie() && lost.size() == 1 && ours->size() == golden.entries[r].size()) {
      result_.swapped = true;
      return;
    }
    fault(fmt::format("layer {} head {} row {}: {} entries instead of {}, {} of them missing", ours_.start.layers[slot],
                      head, row, ours->size(), golden.entries[r].size(), lost.size()));
  }

  /// Whether some cut of the group was decided by less than the tolerance.
  [[nodiscard]] bool near_tie() const {
    const auto gap = group_.attributes.find("smallest_gap");
    return gap != group_.attributes.end() && std::stod(gap->second) <= tolerance_;
  }

  const SeedGroup& group_;
  double tolerance_;
  ReplayCollector ours_;
  H5File golden_;                           // opened last: the policy reads its weights from the same file
  std::optional<H5Array> packed_resident_;  // [R, L, heads, T] and [L, heads, n]: references/golden_file.py
  std::optional<H5Array> packed_score_;
  SeedAgreement result_;
};

}  // namespace

std::vector<SeedGroup> seed_groups(const std::string& file) {
  const std::string path = golden_path(file + ".golden.h5");
  const H5File golden(path);
  std::vector<SeedGroup> groups;
  for (const std::string& id : golden.children("/")) {
    const auto system = golden.attributes("/" + id);
    if (!system.contains("policy") || system.at("policy").empty()) continue;
    for (const std::string& name : golden.children("/" + id)) {
      if (name == "score") continue;
      SeedGroup group{.file = file, .trace = file.substr(file.find('.') + 1), .id = id, .path = "/" + id + "/" + name};
      group.attributes = golden.attributes(group.path);
      group.attributes.insert(system.begin(), system.end());
      group.policy = with_file(group.attributes.at("policy"), path);
      group.budget = budget_of(group, name);
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

void SeedAgreement::add(const SeedAgreement& other) {
  prompt.add(other.prompt);
  rows += other.rows;
  unequal += other.unequal;
  swapped = swapped || other.swapped;
  if (first_fault.empty()) first_fault = other.first_fault;
}

SeedAgreement compare_seed(const SeedGroup& group, double tolerance) { return Comparison(group, tolerance).run(); }

}  // namespace evictsim::test
