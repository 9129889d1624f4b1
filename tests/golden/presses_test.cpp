// Do presses, pasted as kvpress writes them, score and keep what kvpress does?
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>

#include "tests/golden/agreement.h"
#include "traces/error.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

/// "SnapKVPress(window_size=16,kernel_size=7)" from a golden group's attributes; a wrapped press comes first.
std::string press_text(const std::map<std::string, std::string>& attributes, const std::string& prefix) {
  std::string arguments;
  if (prefix.empty() && attributes.contains("inner.press")) arguments = press_text(attributes, "inner.");
  for (const auto& [name, value] : attributes) {
    if (!name.starts_with(prefix) || name == prefix + "press" || name == "scores") continue;
    if (prefix.empty() && name.starts_with("inner.")) continue;
    if (value == "compression_ratio") continue;  // compactor's blending left at its default
    arguments += (arguments.empty() ? "" : ",") + name.substr(prefix.size()) + "=" + value;
  }
  return attributes.at(prefix + "press") + "(" + arguments + ")";
}

/// What must reproduce the group: the press as text, or, where kvpress drew a random matrix, the policy that the press
/// stands for with the matrix drawn.
std::string policy_text(const std::map<std::string, std::string>& attributes, const std::string& trace) {
  std::string press = "kvpress:" + press_text(attributes, "");
  const std::string& name = attributes.at("press");
  if (name != "LeverageScorePress" && name != "CompactorPress") return press;
  CHECK_NOTHROW(policies::parse_policy(press));
  // A copy: the test holds the golden file open, and HDF5 opens a file twice only in the same way.
  const std::string copy = std::string(EVICTSIM_TEST_SCRATCH) + "/" + trace + ".phi.h5";
  std::filesystem::copy_file(golden_path(trace + ".golden.h5"), copy,
                             std::filesystem::copy_options::overwrite_existing);
  const std::string phi = "phi='" + copy + ":/phi/48'";
  if (name == "LeverageScorePress")
    return "leverage_score(sketch=" + attributes.at("sketch_dimension") + "," + phi + ")";
  const std::string& blending = attributes.at("blending");
  return "compactor(sinks=" + attributes.at("sink_size_start") + ",recent=" + attributes.at("sink_size_end") +
         ",chunk=" + attributes.at("chunk_size") + ",sketch=" + attributes.at("sketch_dimension") +
         ",blending=" + (blending == "compression_ratio" ? "auto" : blending) + "," + phi + ")";
}

/// Tolerance "use" of the README, as a share of the spread.
double tolerance_of(const std::string& press) {
  if (press == "StreamingLLMPress") return 0;
  if (press == "KnormPress" || press == "LagKVPress" || press == "CURPress") return 1e-6;
  if (press == "KeyDiffPress") return 2e-6;
  if (press == "CapPress" || press == "NonCausalAttnPress") return 5e-6;
  if (press == "LeverageScorePress" || press == "CompactorPress") return 1e-3;
  return 1e-5;
}

std::vector<std::int32_t> as_rows(const H5Array& array) { return {array.values.begin(), array.values.end()}; }

/// What a press keeps of a layer, and the golden scores where it has any.
struct GoldenLayer {
  Scores scores;
  std::vector<std::vector<std::int32_t>> kept;
};

std::vector<std::int32_t> without(const std::vector<std::int32_t>& rows,
                                  const std::function<bool(std::int32_t)>& is_out) {
  std::vector<std::int32_t> rest;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(rest), [&](std::int32_t row) { return !is_out(row); });
  return rest;
}

/// CriticalKV's first stage picks any of the tied window (or sink) entries: these count, but which they are is free.
Agreement compare_two_stages(GoldenLayer golden, std::vector<std::vector<float>> scores,
                             std::vector<std::vector<std::int32_t>> kept, double tolerance,
                             const std::function<bool(std::int32_t)>& is_tied) {
  constexpr float largest = std::numeric_limits<float>::max();
  std::string fault;
  for (std::size_t head = 0; head < kept.size(); ++head) {
    if (kept[head].size() != golden.kept[head].size()) fault = "counts differ";
    for (std::size_t row = 0; row < scores[head].size(); ++row) {
      const bool is_first = scores[head][row] == largest;
      if (is_first == golden.scores[head][row] > 3e38 || !is_tied(static_cast<std::int32_t>(row))) continue;
      scores[head][row] = largest;
      golden.scores[head][row] = static_cast<double>(largest);
    }
    kept[head] = without(kept[head], is_tied);
    golden.kept[head] = without(golden.kept[head], is_tied);
  }
  Agreement agreement = compare_layer(golden.scores, golden.kept, scores, kept, tolerance, false);
  if (agreement.first_fault.empty()) agreement.first_fault = fault;
  return agreement;
}

/// Whole chunks of the golden scores: every chunk kept must score as much as the worst that kvpress kept.
Agreement compare_chunks(const GoldenLayer& golden, const std::vector<std::vector<std::int32_t>>& kept,
                         std::size_t length, double slack) {
  const std::size_t count = golden.scores.front().size();
  std::vector<double> chunks((count + length - 1) / length, 0.0);
  for (const auto& head : golden.scores) {
    for (std::size_t row = 0; row < count; ++row) {
      const std::size_t chunk = row / length;
      chunks[chunk] += head[row] / static_cast<double>(std::min(length, count - chunk * length));
    }
  }
  const auto chunks_of = [&](const std::vector<std::int32_t>& rows) {
    std::set<std::size_t> touched;
    std::size_t entries = 0;
    for (const std::int32_t row : rows) {
      const std::size_t chunk = static_cast<std::size_t>(row) / length;
      if (touched.insert(chunk).second) entries += std::min(length, count - chunk * length);
    }
    if (entries != rows.size()) touched.clear();  // not whole chunks
    return touched;
  };
  Agreement agreement;
  for (std::size_t head = 0; head < kept.size(); ++head) {
    const std::set<std::size_t> wanted = chunks_of(golden.kept[head]);
    const std::set<std::size_t> got = chunks_of(kept[head]);
    double lowest = std::numeric_limits<double>::infinity();
    for (const std::size_t chunk : wanted) lowest = std::min(lowest, chunks[chunk]);
    const bool tied = got.size() == wanted.size() && std::all_of(got.begin(), got.end(), [&](std::size_t chunk) {
                        return chunks[chunk] >= lowest - slack;
                      });
    ++(got == wanted ? agreement.equal_sets : tied ? agreement.tied_sets : agreement.wrong_sets);
  }
  return agreement;
}

Agreement compare_sets(const GoldenLayer& golden, const std::vector<std::vector<std::int32_t>>& kept) {
  Agreement agreement;
  for (std::size_t head = 0; head < kept.size(); ++head) {
    ++(kept[head] == golden.kept[head] ? agreement.equal_sets : agreement.wrong_sets);
  }
  return agreement;
}

/// Entries that the wrapped press raises above all others, with one score.
std::function<bool(std::int32_t)> raised_by(const std::map<std::string, std::string>& attributes, std::int32_t prompt) {
  if (const auto sinks = attributes.find("inner.n_sink"); sinks != attributes.end()) {
    return [count = std::stoi(sinks->second)](std::int32_t row) { return row < count; };
  }
  return [first = prompt - std::stoi(attributes.at("inner.window_size"))](std::int32_t row) { return row >= first; };
}

Agreement compare_press(const std::string& trace, const H5File& golden, const std::string& press,
                        const std::string& ratio, const std::string& policy, double tolerance) {
  const ReplayCollector ours = replay_golden(trace, policy, policies::Budget::from_compression_ratio(ratio));
  const auto attributes = golden.attributes("/" + press);
  const std::string& name = attributes.at("press");
  const bool has_scores = !attributes.at("scores").starts_with("none");
  Agreement total;
  for (std::size_t slot = 0; slot < ours.start.layers.size(); ++slot) {
    const sim::PromptCut& cut = ours.cuts.at({0, slot});
    const std::string layer = "/layer_" + std::string(3 - std::to_string(ours.start.layers[slot]).size(), '0') +
                              std::to_string(ours.start.layers[slot]);
    GoldenLayer expected;
    for (int head = 0; head < ours.start.kv_heads; ++head) {
      const std::string place = "/head_" + std::to_string(head);
      const std::string own = "/" + press + "/" + ratio + layer + place;
      const std::string score = golden.has(own + "/score") ? own + "/score" : "/" + press + "/score" + layer + place;
      if (has_scores) expected.scores.push_back(golden.read(score).values);
      expected.kept.push_back(as_rows(golden.read(own + "/kept")));
    }
    const auto scores_alone = [&] {
      return compare_layer(expected.scores, cut.kept, cut.scores, cut.kept, tolerance, false);
    };
    Agreement agreement;
    if (!has_scores) {
      agreement = compare_sets(expected, cut.kept);
    } else if (name == "CriticalKVPress") {
      agreement = compare_two_stages(expected, cut.scores, cut.kept, tolerance,
                                     raised_by(attributes, ours.start.prompt_length));
    } else if (name == "ChunkKVPress") {
      agreement = compare_chunks(expected, cut.kept, std::stoul(attributes.at("chunk_length")),
                                 tolerance * spread_of(expected.scores));
      agreement.largest_difference = scores_alone().largest_difference;
    } else if (name == "CriticalAdaKVPress") {
      agreement = compare_sets(expected, cut.kept);
      agreement.largest_difference = scores_alone().largest_difference;
    } else {
      agreement = compare_layer(expected.scores, expected.kept, cut.scores, cut.kept, tolerance, name == "AdaKVPress");
    }
    if (!agreement.first_fault.empty()) agreement.first_fault = layer.substr(1) + " " + agreement.first_fault;
    total.add(agreement);
  }
  return total;
}

}  // namespace

TEST_CASE("every press in golden agrees within its tolerance", "[golden]") {
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "tiny-g4", "smollm2");
  const H5File golden(golden_path(trace + ".golden.h5"));
  int compared = 0;
  for (const std::string& press : golden.children("/")) {
    if (press == "phi" || press == "reference") continue;
    const auto attributes = golden.attributes("/" + press);
    const std::string policy = policy_text(attributes, trace);
    CAPTURE(trace, press, policy);
    const std::string name = attributes.at("press");
    const double tolerance = tolerance_of(attributes.contains("inner.press") ? attributes.at("inner.press") : name);
    Agreement total;
    for (const std::string& ratio : golden.children("/" + press)) {
      if (ratio == "score") continue;
      total.add(compare_press(trace, golden, press, ratio, policy, tolerance));
      ++compared;
    }
    print_row(trace, press, total);
    CHECK(total.wrong_sets == 0);
    CHECK(total.largest_difference <= tolerance);
    CHECK(total.first_fault.empty());
  }
  CHECK(compared >= (trace == "smollm2" ? 45 : 89));
}

TEST_CASE("presses that cut while decoding keep what kvpress keeps", "[golden]") {
  const H5File golden(golden_path("tiny-g2.golden.h5"));
  const std::map<std::string, std::string> presses = {
      {"knorm", "KnormPress"}, {"keydiff", "KeyDiffPress"}, {"tova", "TOVAPress"}};
  for (const auto& [name, press] : presses) {
    const ReplayCollector ours = replay_golden(
        "tiny-g2", "kvpress:DecodingPress(base_press=" + press + "(),compression_interval=4,target_size=144)",
        policies::Budget::parse("144"), true);
    const CollectedRows& rows = ours.rows.at({0, 0});
    const auto length = static_cast<std::size_t>(ours.start.length);
    for (const std::string& row : golden.children("/reference/decode/" + name)) {
      const auto at = static_cast<std::size_t>(std::stoi(row.substr(4)) - ours.start.prompt_length);
      for (int head = 0; head < ours.start.kv_heads; ++head) {
        CAPTURE(name, row, head);
        std::vector<std::int32_t> resident;
        for (std::size_t entry = 0; entry < length; ++entry) {
          if (rows.resident_rows[static_cast<std::size_t>(head)][at * length + entry] != 0) {
            resident.push_back(static_cast<std::int32_t>(entry));
          }
        }
        CHECK(resident == as_rows(golden.read("/reference/decode/" + name + "/" + row + "/layer_000/head_" +
                                              std::to_string(head) + "/kept")));
      }
    }
  }
}
