#include "tests/support/learned_weights.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <set>

#include "policies/policy.h"
#include "policies/registry.h"
#include "tests/support/weights_file.h"

namespace evictsim::test {
namespace {

/// Of the learned parts that policies without weights of their own stand around.
const std::map<std::string, std::string> learned_inside = {{"dms", "kvzap"}};

/// One group per system (docs/weights.md), and per choice of a parameter that asks for other tensors.
void write(tests::WeightsFile& file, const TraceShape& shape) {
  const auto model = static_cast<std::size_t>(shape.hidden_size);
  const auto queries = static_cast<std::size_t>(shape.query_heads);
  const auto heads = static_cast<std::size_t>(shape.kv_heads);
  const auto width = static_cast<std::size_t>(shape.head_dim);
  const std::size_t group = queries / heads;
  const std::size_t inner = 5;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const auto tensor = [&](const std::string& system, const std::string& name, const std::vector<std::size_t>& extents,
                            float spread = 0.3F, float mean = 0.0F) {
      file.random(fmt::format("/{}/layer_{:03}/{}", system, layer, name), extents, spread, mean);
    };
    for (const std::string gate : {"rg", "rg2"}) {
      tensor(gate, "linear1.weight", {inner, gate == "rg" ? model : 2 * heads * width});
      tensor(gate, "linear1.bias", {inner});
      tensor(gate, "linear2.weight", {heads, inner});
      tensor(gate, "bias", {heads}, 0.5F, 3.0F);
    }
    tensor("rg3", "gate_proj.weight", {inner, 2 * heads * width});
    tensor("rg3", "up_proj.weight", {inner, 2 * heads * width});
    tensor("rg3", "down_proj.weight", {heads, inner});
    tensor("rg3", "bias", {heads}, 0.5F, 3.0F);
    tensor("rg10", "linear1.weight", {inner, model});
    tensor("rg10", "linear1.bias", {inner});
    tensor("rg10", "linear2.weight", {inner, inner});
    tensor("rg10", "linear2.bias", {inner});
    tensor("rg10", "linear3.weight", {heads, inner});
    tensor("rg10", "bias", {heads}, 0.5F, 3.0F);
    tensor("foresightkv", "fc1.weight", {heads, 2 * width + 8 * group, inner});
    tensor("foresightkv", "fc1.bias", {heads, inner});
    tensor("foresightkv", "fc2.weight", {heads, inner, 1});
    tensor("foresightkv", "fc2.bias", {heads, 1});
    tensor("kvp", "fc1.weight", {heads, inner, 2 * width + 1});
    tensor("kvp", "fc1.bias", {heads, inner});
    tensor("kvp", "fc2.weight", {heads, 1, inner});
    tensor("kvp", "fc2.bias", {heads, 1});
    tensor("linear", "weight", {heads, model});
    tensor("linear", "bias", {heads});
    tensor("kvzap", "0.weight", {inner, model});
    tensor("kvzap", "0.bias", {inner});
    tensor("kvzap", "2.weight", {heads, inner});
    tensor("kvzap", "2.bias", {heads}, 2.0F, -6.0F);
    tensor("fastkvzip", "q_proj.weight", {queries * inner, model});
    tensor("fastkvzip", "q_proj.bias", {queries * inner});
    tensor("fastkvzip", "k_proj.weight", {heads * inner, model});
    tensor("fastkvzip", "q_norm.weight", {inner}, 0.2F, 1.0F);
    tensor("fastkvzip", "k_norm.weight", {inner}, 0.2F, 1.0F);
    tensor("fastkvzip", "k_base", {heads, 1, 3, inner}, 1.0F);
    tensor("fastkvzip", "b", {heads, 1, group}, 1.0F);
    tensor("locret", "fc1.weight", {inner, (queries + 2 * heads) * width});
    tensor("locret", "fc2.weight", {heads, inner});
    for (const std::string input : {"lkv", "z"}) {
      tensor(input, "embedding", {heads, 3}, 1.0F);
      tensor(input, "token.0.weight", {inner, input == "z" ? model : 2 * width});
      tensor(input, "token.0.bias", {inner});
      tensor(input, "token.2.weight", {input == "z" ? heads : 1, inner});
      tensor(input, "token.2.bias", {input == "z" ? heads : 1});
    }
    tests::WeightTensor ratios = {{99, heads}, {}};
    for (std::size_t percent = 1; percent <= 99; ++percent) {
      // Head 0 loses less than its share and the last one more, so that the layer loses its share.
      const double removed = static_cast<double>(percent) / 100;
      for (std::size_t head = 0; head < heads; ++head) {
        const double side = heads == 1 ? 0 : 2.0 * static_cast<double>(head) / static_cast<double>(heads - 1) - 1;
        ratios.values.push_back(static_cast<float>(removed + side * removed * (1 - removed) / 2));
      }
    }
    tensor("duoattention", "alphas", {heads});
    file.write(fmt::format("/lukv/layer_{:03}/prune_ratios", layer), ratios);
  }
  for (const std::string input : {"lkv", "z"}) {
    file.random("/" + input + "/budget.0.weight", {4, 3}, 1.0F);
    file.random("/" + input + "/budget.0.bias", {4});
    file.random("/" + input + "/budget.2.weight", {1, 4}, 1.0F);
    file.random("/" + input + "/budget.2.bias", {1});
  }
}

}  // namespace

LearnedWeights::LearnedWeights(const TraceShape& shape) {
  static std::atomic<int> counter{0};
  path_ = (std::filesystem::current_path() / fmt::format("{}-weights-{}.h5", ::getpid(), counter++)).string();
  tests::WeightsFile file(path_);
  write(file, shape);
}

LearnedWeights::~LearnedWeights() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

std::string LearnedWeights::policy(const std::string& name, const std::string& argument) const {
  std::string text = argument.empty() ? name : name + "(" + argument + ")";
  const std::set<std::string> missing = policies::parse_policy(text).needs.parameters;
  if (missing.empty()) return text;
  const std::string comma = argument.empty() ? "" : ",";
  const auto inside = learned_inside.find(name);
  if (inside != learned_inside.end()) return fmt::format("{}({}{}{})", name, policy(inside->second), comma, argument);
  // The choice that says which network it is, given or by default; else the system has one.
  std::string network = name;
  for (const policies::ParameterSpec& spec : policies::find_part(name).parameters) {
    if (spec.name != "gate" && spec.name != "kind" && spec.name != "input") continue;
    const std::string key = spec.name + "=";
    const std::string value = argument.starts_with(key) ? argument.substr(key.size()) : spec.default_value;
    if (value != "mlp" && value != "kv") network = value;
  }
  const std::string file = missing.begin()->substr(0, missing.begin()->find(':'));
  return fmt::format("{}({}{}{}='{}:/{}')", name, argument, comma, file, path_, network);
}

}  // namespace evictsim::test
