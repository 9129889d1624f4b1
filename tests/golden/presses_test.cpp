// Do presses, pasted as kvpress writes them, score and keep what kvpress does?
#include <catch2/catch.hpp>

#include <algorithm>
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
    arguments += (arguments.empty() ? "" : ",") + name.substr(prefix.size()) + "=" + value;
  }
  return attributes.at(prefix + "press") + "(" + arguments + ")";
}

/// Tolerance "use" of the README, as a share of the spread.
double tolerance_of(const std::string& press) {
  if (press == "StreamingLLMPress") return 0;
  if (press == "KnormPress" || press == "LagKVPress") return 1e-6;
  if (press == "KeyDiffPress") return 2e-6;
  return 1e-5;
}

/// Classes that are not presets yet; a class that appears in the registry must leave this list.
const std::set<std::string> not_yet = {"BlockPress",     "CapPress",           "ChunkPress",         "ChunkKVPress",
                                       "CompactorPress", "CriticalAdaKVPress", "CriticalKVPress",    "CURPress",
                                       "FinchPress",     "LeverageScorePress", "NonCausalAttnPress", "SimLayerKVPress"};

std::vector<std::int32_t> as_rows(const H5Array& array) { return {array.values.begin(), array.values.end()}; }

Agreement compare_press(const std::string& trace, const H5File& golden, const std::string& press,
                        const std::string& ratio, const std::string& policy, double tolerance, bool counts_move) {
  const ReplayCollector ours = replay_golden(trace, policy, policies::Budget::from_compression_ratio(ratio));
  Agreement total;
  for (std::size_t slot = 0; slot < ours.start.layers.size(); ++slot) {
    const sim::PromptCut& cut = ours.cuts.at({0, slot});
    const std::string layer = "/layer_" + std::string(3 - std::to_string(ours.start.layers[slot]).size(), '0') +
                              std::to_string(ours.start.layers[slot]);
    Scores scores;
    std::vector<std::vector<std::int32_t>> kept;
    for (int head = 0; head < ours.start.kv_heads; ++head) {
      const std::string name = "/head_" + std::to_string(head);
      const std::string own = "/" + press + "/" + ratio + layer + name;
      const std::string score = golden.has(own + "/score") ? own + "/score" : "/" + press + "/score" + layer + name;
      scores.push_back(golden.read(score).values);
      kept.push_back(as_rows(golden.read(own + "/kept")));
    }
    Agreement agreement = compare_layer(scores, kept, cut.scores, cut.kept, tolerance, counts_move);
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
  std::set<std::string> unsupported;
  for (const std::string& press : golden.children("/")) {
    if (press == "phi" || press == "reference") continue;
    const auto attributes = golden.attributes("/" + press);
    const std::string policy = "kvpress:" + press_text(attributes, "");
    CAPTURE(trace, press, policy);
    const std::string name = attributes.at("press");
    if (not_yet.contains(name)) {
      unsupported.insert(name);
      CHECK_THROWS_AS(policies::parse_policy(policy), Error);
      continue;
    }
    const std::string inner = attributes.contains("inner.press") ? attributes.at("inner.press") : name;
    Agreement total;
    for (const std::string& ratio : golden.children("/" + press)) {
      if (ratio == "score") continue;
      total.add(compare_press(trace, golden, press, ratio, policy, tolerance_of(inner), name == "AdaKVPress"));
      ++compared;
    }
    print_row(trace, press, total);
    CHECK(total.wrong_sets == 0);
    CHECK(total.largest_difference <= tolerance_of(inner));
    CHECK(total.first_fault.empty());
  }
  CHECK(compared >= (trace == "smollm2" ? 24 : 50));
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
