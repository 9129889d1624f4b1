// Do tiers, codes and merging attend, move and change what float64 references written from the papers do?
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "tests/golden/agreement.h"
#include "tests/golden/placement_groups.h"
#include "tests/support/placement_double.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

const std::string file = "references-placements.golden.h5";

/// Outputs are computed in float32, a few 1e-7 of their size. Errors are differences of outputs as a share of them, so
/// they carry that absolutely: differences are shares of the largest value, or of a half where all are less.
constexpr double tolerance = 1e-5;
constexpr double least_scale = 0.5;
/// Keys and values as attended: zero and scale of a code are rounded to float16, of a sum or difference in float32.
/// Where float64 lies next to the middle, the other neighbour is right as well: 2^-11 of it.
constexpr double code_tolerance = 5e-4;
/// KVQuant's levels are float16 too, and hold for all entries.
double error_tolerance(const std::string& system) { return system == "kvquant" ? code_tolerance : tolerance; }

/// What was compared of one system, and how far it lay apart.
struct Findings {
  double mass = 0, error = 0, layer_error = 0, tensors = 0;
  std::int64_t sets = 0, wrong_sets = 0, counts = 0, wrong_counts = 0, numbers = 0;
  std::string first_fault;

  void fault(std::int64_t& counter, const std::string& what) {
    ++counter;
    if (first_fault.empty()) first_fault = what;
  }
  /// Largest difference, as a share of the largest value.
  template <typename Values>
  void compare(double& largest, const Values& ours, const std::vector<double>& golden) {
    REQUIRE(ours.size() == golden.size());
    double scale = least_scale, difference = 0;
    for (std::size_t i = 0; i < golden.size(); ++i) {
      scale = std::max(scale, std::abs(golden[i]));
      difference = std::max(difference, std::abs(static_cast<double>(ours[i]) - golden[i]));
    }
    numbers += std::ssize(golden);
    largest = std::max(largest, difference / scale);
  }
  void add(const Findings& other) {
    mass = std::max(mass, other.mass);
    error = std::max(error, other.error);
    layer_error = std::max(layer_error, other.layer_error);
    tensors = std::max(tensors, other.tensors);
    sets += other.sets;
    wrong_sets += other.wrong_sets;
    counts += other.counts;
    wrong_counts += other.wrong_counts;
    numbers += other.numbers;
    if (first_fault.empty()) first_fault = other.first_fault;
  }
};

/// In the order of TRAFFIC in references/placements.py.
std::vector<double> numbers_of(const policies::StepTraffic& step) {
  std::vector<double> numbers{static_cast<double>(step.hits), static_cast<double>(step.misses)};
  for (const policies::TierBytes* tiers : {&step.recalled, &step.written, &step.scanned}) {
    numbers.insert(numbers.end(), tiers->bytes.begin(), tiers->bytes.end());
  }
  return numbers;
}

void compare_counts(Findings& findings, const std::vector<double>& ours, const std::vector<double>& golden,
                    const std::string& what) {
  static const std::vector<std::string> names = {"hits",          "misses",       "recalled hbm", "recalled host",
                                                 "recalled disk", "written hbm",  "written host", "written disk",
                                                 "scanned hbm",   "scanned host", "scanned disk"};
  static const std::vector<std::string> tiers = {"hbm", "host", "disk"};
  REQUIRE(ours.size() == golden.size());
  for (std::size_t i = 0; i < golden.size(); ++i) {
    ++findings.counts;
    if (ours[i] == golden[i]) continue;
    findings.fault(findings.wrong_counts, fmt::format("{} {}: {} instead of {}", what,
                                                      golden.size() == 3 ? tiers[i] : names[i], ours[i], golden[i]));
  }
}

/// Retained mass and errors of the group's layer `i`.
void compare_errors(Findings& findings, const H5File& golden, const Group& group, std::size_t i,
                    const CollectedRows& rows) {
  const auto slice = [&](const std::string& name) { return Slices(golden.read("/" + group.id + name)).of(i); };
  findings.compare(findings.mass, rows.retained_mass, slice("/retained_mass"));
  findings.compare(findings.error, rows.output_error, slice("/output_error"));
  std::vector<double> ratios;
  for (std::size_t r = 0; r < rows.rows.size(); ++r) {
    ratios.push_back(std::sqrt(rows.error_squared[r] / rows.output_squared[r]));
  }
  findings.compare(findings.layer_error, ratios, slice("/layer_error"));
}

/// The whole path: the replay of a trace, with its errors and traffic.
Findings compare_replay(const H5File& golden, const Group& group) {
  Findings findings;
  const ReplayCollector ours = replay_golden(group.trace, group.policy, policies::Budget::parse(group.budget));
  REQUIRE(ours.skipped_policies.empty());
  const bool has_errors = golden.has("/" + group.id + "/retained_mass");  // random axes leave bytes alone to compare
  const Slices traffic(golden.read("/" + group.id + "/traffic"));
  const Slices stored(golden.read("/" + group.id + "/stored"));
  for (std::size_t i = 0; i < group.layers.size(); ++i) {
    const auto found = std::find(ours.start.layers.begin(), ours.start.layers.end(), group.layers[i]);
    const auto slot = static_cast<std::size_t>(found - ours.start.layers.begin());
    const CollectedRows& rows = ours.rows.at({0, slot});
    if (has_errors) compare_errors(findings, golden, group, i, rows);
    const std::optional<policies::TierBytes>& rest = ours.cuts.at({0, slot}).stored;
    if (stored.of(i).front() < 0) {  // a layer that the placement leaves alone
      CHECK((!rest && rows.traffic.empty()));
      continue;
    }
    REQUIRE(rest);
    const std::vector<double> expected = traffic.of(i);
    REQUIRE(rows.traffic.size() == traffic.array.shape[1]);
    for (std::size_t r = 0; r < rows.traffic.size(); ++r) {
      const std::vector<double> numbers = numbers_of(rows.traffic[r]);
      const auto first = expected.begin() + static_cast<std::ptrdiff_t>(r * numbers.size());
      compare_counts(findings, numbers, {first, first + std::ssize(numbers)},
                     fmt::format("{} layer {} row {}:", group.id, group.layers[i], rows.rows[r]));
    }
    compare_counts(findings, {rest->bytes.begin(), rest->bytes.end()}, stored.of(i),
                   fmt::format("{} layer {} at rest:", group.id, group.layers[i]));
  }
  return findings;
}

/// A placement on its own, which shows the sets that rows attend and the keys and values as attended.
Findings compare_walk(const H5File& golden, const Group& group) {
  Findings findings;
  const std::string path = golden_path(group.trace + ".h5");
  const traces::Reader reader(path);
  const int prompt = reader.sequences()[0].prompt_length;
  const int length = reader.sequences()[0].length;
  const H5File stored(path);
  const Slices attended(golden.read("/" + group.id + "/attended"));
  const std::size_t row_bytes = attended.array.shape[3];
  for (std::size_t i = 0; i < group.layers.size(); ++i) {
    TraceCache cache(stored, reader.header(), group.layers[i], prompt);
    if (group.hot == "kept") {
      const Slices heads(golden.read("/" + group.id + "/kept"));
      const std::vector<double> kept = heads.of(i);
      for (std::size_t head = 0; head < cache.resident.size(); ++head) {
        const auto first = kept.begin() + static_cast<std::ptrdiff_t>(head * group.entries);
        cache.resident[head].assign(first, first + static_cast<std::ptrdiff_t>(group.entries));
      }
    } else if (group.hot == "newest") {
      keep_newest(cache, group.entries);
    }
    tests::PlacementWalk walk(cache, group.policy, static_cast<std::int64_t>(group.entries));
    const std::vector<double> bits = attended.of(i);
    std::size_t byte = 0;
    for (int row = prompt; row < length; ++row) {
      if (row > prompt && group.hot == "newest") walk.cut_to_newest(group.entries);
      const policies::AttendedEntries entries = walk.step();
      for (std::size_t head = 0; head < entries.rows.size(); ++head, byte += row_bytes) {
        std::vector<std::int32_t> expected;
        for (int entry = 0; entry < length; ++entry) {
          const auto eight = static_cast<unsigned>(bits[byte + static_cast<std::size_t>(entry) / 8]);
          if ((eight >> (7 - entry % 8) & 1U) != 0) expected.push_back(entry);
        }
        ++findings.sets;
        if (entries.rows[head] == expected) continue;
        findings.fault(findings.wrong_sets,
                       fmt::format("{} layer {} row {} head {}: {} attended instead of {}", group.id, group.layers[i],
                                   row, head, entries.rows[head].size(), expected.size()));
      }
    }
    for (const std::string name : {"keys", "values"}) {
      if (!golden.has("/" + group.id + "/" + name)) continue;
      std::vector<double> sums;
      for (int head = 0; head < cache.heads(); ++head) {
        const models::MatrixView tensor = name == "keys" ? walk.placement->attended_keys(walk.view, head)
                                                         : walk.placement->attended_values(walk.view, head);
        for (int row = 0; row < length; ++row) {
          double sum = 0;
          for (policies::Index c = 0; c < tensor.cols(); ++c) {
            sum += static_cast<double>(tensor(row, c)) * std::cos(static_cast<double>(c + 1));
          }
          sums.push_back(sum);
        }
      }
      findings.compare(findings.tensors, sums, Slices(golden.read("/" + group.id + "/" + name)).of(i));
    }
  }
  return findings;
}

}  // namespace

TEST_CASE("every placement agrees with its reference", "[golden]") {
  const std::string systems_of = GENERATE("placements", "packets", "records", "kvquant");
  const H5File golden(golden_path("references-" + systems_of + ".golden.h5"));
  std::map<std::string, Findings> systems;
  for (const std::string& id : golden.children("/")) {
    if (!golden.has("/" + id + "/traffic")) continue;
    const Group group = group_of(golden, id);
    CAPTURE(id, group.policy);
    try {
      Findings found = compare_replay(golden, group);
      if (golden.has("/" + id + "/attended")) found.add(compare_walk(golden, group));
      const std::string system = id.substr(0, id.find('-'));
      Findings& total = systems[system];
      if (!found.first_fault.empty() || std::max(found.error, found.layer_error) > error_tolerance(system)) {
        fmt::print(
            "{}: {}\n    mass {:.1e} error {:.1e} layer {:.1e} tensors {:.1e}, {} of {} sets, {} of {} counts: {}\n",
            id, group.policy, found.mass, found.error, found.layer_error, found.tensors, found.wrong_sets, found.sets,
            found.wrong_counts, found.counts, found.first_fault);
      }
      total.add(found);
    } catch (const std::exception& error) {
      FAIL_CHECK(id << ": " << error.what());
    }
  }
  CHECK(systems.size() >= (systems_of == "placements" ? 13 : 1));
  for (const auto& [name, found] : systems) {
    CAPTURE(name, found.first_fault);
    fmt::print(
        "{:16} mass {:8.1e} output {:8.1e} layer {:8.1e} tensors {:8.1e} of {} numbers; {} sets, {} not; {} counts, {} "
        "not {}\n",
        name, found.mass, found.error, found.layer_error, found.tensors, found.numbers, found.sets, found.wrong_sets,
        found.counts, found.wrong_counts, found.first_fault);
    CHECK(found.wrong_sets == 0);
    CHECK(found.wrong_counts == 0);
    CHECK(found.mass <= tolerance);
    CHECK(found.error <= error_tolerance(name));
    CHECK(found.layer_error <= error_tolerance(name));
    CHECK(found.tensors <= (name == "kivi" || name == "kvquant" ? code_tolerance : tolerance));
  }
}

TEST_CASE("CaM merges with the probabilities of the reference", "[golden]") {
  const H5File golden(golden_path(file));
  const std::string id = GENERATE("cam-8-tiny-g2", "cam-32-tiny-g4", "cam-16-smollm2");
  const Group group = group_of(golden, id);
  const auto merge_budget = std::stoul(golden.attributes("/" + id).at("merge_budget"));
  const H5Array probability = golden.read("/" + id + "/probability");
  const traces::Reader reader(golden_path(group.trace + ".h5"));
  const H5File stored(golden_path(group.trace + ".h5"));
  double merged = 0, expected = 0, variance = 0;
  std::size_t next = 0;
  for (const int layer : reader.header().layers) {
    TraceCache cache(stored, reader.header(), layer, reader.sequences()[0].prompt_length);
    keep_newest(cache, group.entries);
    tests::PlacementWalk walk(cache, group.policy, static_cast<std::int64_t>(group.entries));
    for (std::size_t step = 0; step < probability.shape[1]; ++step) {
      static_cast<void>(walk.step());
      std::vector<models::Matrix> before;
      for (int head = 0; head < cache.heads(); ++head) {
        before.emplace_back(walk.placement->attended_values(walk.view, head));
      }
      const auto hot = cache.resident;
      walk.cut_to_newest(group.entries);
      for (std::size_t head = 0; head < hot.size(); ++head, ++next) {
        const models::MatrixView after = walk.placement->attended_values(walk.view, static_cast<int>(head));
        const auto evicted = hot[head].front();
        // Of all followers, how many have the share added, and how many are as they were; others never change.
        std::size_t changed = 0;
        for (std::size_t place = 1; place < hot[head].size(); ++place) {
          const auto row = hot[head][place];
          const bool follows = place <= merge_budget;
          const auto share = before[head].row(evicted) / static_cast<float>(std::min(merge_budget, group.entries));
          const float to_merged = (after.row(row) - before[head].row(row) - share).cwiseAbs().maxCoeff();
          const float to_same = (after.row(row) - before[head].row(row)).cwiseAbs().maxCoeff();
          if (follows && to_merged < 1e-5F) {
            ++changed;
          } else {
            REQUIRE(to_same == 0.0F);
          }
        }
        // One draw for an evicted entry: all of its followers or none.
        REQUIRE((changed == 0 || changed == std::min(merge_budget, group.entries)));
        const double p = probability.values[next];
        if (p == 1) CHECK(changed > 0);
        merged += changed > 0 ? 1 : 0;
        expected += p;
        variance += p * (1 - p);
      }
    }
  }
  fmt::print("{:16} {} merged of {}, expected {:.1f} +- {:.1f}\n", id, merged, next, expected, std::sqrt(variance));
  CHECK(next == probability.values.size());
  CHECK(std::abs(merged - expected) <= 4 * std::sqrt(variance));
}
