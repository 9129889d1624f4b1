// A user's program: writes a small trace, replays it under every registered policy, and checks what comes back.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "policies/registry.h"
#include "sim/replay/replay.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/writer.h"

namespace {

using namespace evictsim;

constexpr int layers = 2, query_heads = 4, kv_heads = 2, head_dim = 8, prompt_length = 24, length = 32;

std::vector<float> waves(std::size_t count, double frequency) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(std::sin(frequency * static_cast<double>(i + 1)));
  return values;
}

void write_trace(const std::string& path) {
  traces::Header header;
  header.model = "consumer";
  header.engine = "none";
  header.engine_version = "1";
  header.created = "2026-01-01T00:00:00Z";
  header.num_layers = layers;
  header.num_query_heads = query_heads;
  header.num_kv_heads = kv_heads;
  header.head_dim = head_dim;
  header.hidden_size = query_heads * head_dim;
  header.vocab_size = 100;
  header.attention_scale = 1 / std::sqrt(static_cast<double>(head_dim));
  header.rope_theta = 10000;
  header.layers = {0, 1};
  for (int i = 0; i < head_dim / 2; ++i) header.inv_freq.push_back(std::pow(10000.0, -2.0 * i / head_dim));

  traces::Writer writer(path, header);
  traces::SequenceInfo sequence;
  sequence.prompt_length = prompt_length;
  sequence.length = length;
  std::vector<float> tokens(length);
  for (int t = 0; t < length; ++t) {
    sequence.positions.push_back(t);
    tokens[static_cast<std::size_t>(t)] = static_cast<float>(t);
  }
  writer.begin_sequence(sequence);
  for (int layer = 0; layer < layers; ++layer) {
    writer.append_kv(layer, waves(length * kv_heads * head_dim, 0.37 + layer),
                     waves(length * kv_heads * head_dim, 0.71));
    writer.append_q(layer, sequence.positions, waves(length * query_heads * head_dim, 0.53));
  }
  writer.write_channel(traces::Channel::token_ids, tokens);
  writer.end_sequence();
  writer.seal();
}

/// Largest output error of every point.
class WorstError : public sim::ReplayObserver {
 public:
  explicit WorstError(std::size_t points) : worst(points, 0.0), blocks(points, 0) {}
  void begin_sequence(const sim::SequenceStart&) override {}
  void skipped(std::size_t, const std::string& why) override { std::cout << "skipped: " << why << "\n"; }
  void failed(std::size_t, const std::string& why) override { failures.push_back(why); }
  void prompt_cut(sim::PromptCut&&) override {}
  void full_block(const sim::FullBlock&) override {}
  void layer_block(const sim::LayerBlock& block) override {
    ++blocks[block.point];
    worst[block.point] = std::max(worst[block.point], static_cast<double>(block.output_error.maxCoeff()));
  }
  void end_sequence() override { ++sequences; }
  void progress(double) override {}

  std::vector<double> worst;
  std::vector<int> blocks;
  std::vector<std::string> failures;
  int sequences = 0;
};

int fail(const std::string& what) {
  std::cerr << what << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail("usage: consumer TRACE");
  try {
    write_trace(argv[1]);
    std::vector<traces::Reader> readers;
    readers.emplace_back(argv[1]);

    // A linker that dropped the self-registering parts would leave this list empty.
    const auto policies = policies::parse_policies("all");
    std::cout << policies.size() << " policies\n";
    if (policies.size() < 14) return fail("the installed library has lost policies");

    const auto plan = sim::ReplayPlan::of(policies, {policies::Budget::parse("0.25"), policies::Budget::parse("1")});
    sim::ReplayOptions options;
    options.skip_missing_needs = true;
    WorstError result(plan.points.size());
    const std::atomic<bool> stop = false;
    sim::replay(readers, plan, options, result, stop);

    if (result.sequences != 1) return fail("the sequence did not end");
    for (const std::string& why : result.failures) return fail("a policy failed: " + why);
    bool any_error = false;
    for (std::size_t i = 0; i < plan.points.size(); ++i) {
      const std::string& name = policies[plan.points[i].policy].name;
      std::cout << name << " " << result.worst[i] << "\n";
      if (plan.points[i].budget.unlimited() && result.worst[i] > 1e-5)
        return fail(name + ": an error at the full budget");
      any_error = any_error || result.worst[i] > 1e-3;
    }
    if (!any_error) return fail("no policy at a quarter of the cache has any error");
  } catch (const Error& error) {
    return fail(error.what());
  }
  return 0;
}
