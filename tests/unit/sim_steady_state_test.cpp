// Do the closed forms of steady loads obey the laws that any such system obeys?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "models/deployment.h"
#include "models/engine.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "sim/serving/steady_state.h"

using namespace evictsim;

namespace {

struct System {
  models::EngineConstants constants;
  models::StepTime step_time;
};

/// DeepSeek-V3 on eight H200, attention copied or cut.
System system_of(int copies) {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  models::Deployment deployment;
  deployment.tensor_parallel = 8 / copies;
  deployment.attention_data_parallel = copies;
  const models::Llm llm = models::find_llm("deepseek-v3");
  models::EngineConstants constants = models::bounded(models::find_engine("sglang").constants);
  return {constants,
          models::StepTime(models::StepShape(llm, models::find_gpu("h200-141gb-sxm"), deployment), constants)};
}

sim::ClosedLoopLoad loop_of(double concurrency) {
  sim::ClosedLoopLoad loop;
  loop.prompt_tokens = 4000;
  loop.output_tokens = 1000;
  loop.concurrency = concurrency;
  loop.entries_read = 4500;
  loop.most_sequences = 1e6;
  loop.token_budget = 8192;
  return loop;
}

double decode_step(const System& system, const sim::ClosedLoopLoad& loop) {
  models::MeanStepWork work;
  work.decode_sequences = loop.concurrency;
  work.decode_entries = loop.concurrency * loop.entries_read;
  return system.step_time.seconds(work);
}

/// Seconds that a request is in the system, but for what is outside of steps.
double cycle(const System& system, const sim::ClosedLoopLoad& loop, const sim::ClosedLoopTimes& times) {
  return times.first_token - system.constants.request_seconds + loop.output_tokens * times.per_output_token;
}

}  // namespace

TEST_CASE("with prompts computed elsewhere, decode steps are those of all requests in flight") {
  System system = system_of(1);
  system.constants.first_wave_share = 1e-12;
  const sim::ClosedLoopLoad loop = loop_of(64);
  const sim::PrefillReplicas plenty{.per_decode_replica = 1e6, .prompts_at_once = 1, .transfer_seconds = 0.25};
  const auto times = sim::disaggregated_times(system.step_time, system.step_time, system.constants, loop, plenty);
  // A few of the 64 are in prefill or on their way.
  CHECK(times.per_output_token < decode_step(system, loop));
  CHECK(times.per_output_token > 0.9 * decode_step(system, loop));
  models::MeanStepWork prompt;
  prompt.prefill_sequences = 1;
  prompt.prefill_tokens = prompt.prefill_context = 4000;
  prompt.prefill_pairs = 4000.0 * 4001 / 2;
  CHECK(times.first_token ==
        Approx(system.constants.request_seconds + system.step_time.seconds(prompt) + 0.25).epsilon(1e-6));
}

TEST_CASE("replicas that compute prompts bound the throughput, and whoever is not decoding waits for them") {
  for (const int copies : {1, 8}) {
    System system = system_of(copies);
    system.constants.first_wave_share = 1e-12;
    const sim::PrefillReplicas one{.per_decode_replica = 1, .prompts_at_once = static_cast<double>(copies)};
    models::MeanStepWork prompts;
    prompts.prefill_sequences = copies;
    prompts.prefill_tokens = prompts.prefill_context = 4000.0 * copies;
    prompts.prefill_pairs = 4000.0 * 4001 / 2 * copies;
    const double between = system.step_time.seconds(prompts) / copies;
    double before = 0, tpot = 0;
    for (double concurrency = 1; concurrency < 1e5; concurrency *= 2) {
      CAPTURE(copies, concurrency);
      const sim::ClosedLoopLoad loop = loop_of(concurrency);
      const auto times = sim::disaggregated_times(system.step_time, system.step_time, system.constants, loop, one);
      CHECK(cycle(system, loop, times) >= concurrency * between * (1 - 1e-9));
      CHECK(times.first_token >= before);
      CHECK(times.per_output_token >= tpot * (1 - 1e-3));
      before = times.first_token;
      tpot = times.per_output_token;
    }
    sim::ClosedLoopLoad flooded = loop_of(1e5);
    flooded.output_tokens = 50;  // so that decoding takes less than prompts do
    const auto times = sim::disaggregated_times(system.step_time, system.step_time, system.constants, flooded, one);
    CHECK(cycle(system, flooded, times) == Approx(1e5 * between).epsilon(1e-3));
  }
}

TEST_CASE(
    "a limit of memory far away changes nothing, and one far below the load makes requests wait by Little's law") {
  const System system = system_of(1);
  sim::ClosedLoopLoad loop = loop_of(64);
  const auto free = sim::closed_loop_times(system.step_time, system.constants, loop);
  loop.most_sequences = 96;
  const auto near = sim::closed_loop_times(system.step_time, system.constants, loop);
  CHECK(near.first_token == Approx(free.first_token).epsilon(0.01));
  CHECK(near.per_output_token == Approx(free.per_output_token).epsilon(0.01));
  loop.most_sequences = 16;
  const auto held = sim::closed_loop_times(system.step_time, system.constants, loop);
  // Three quarters of the time in the system are spent in the queue.
  CHECK(held.first_token > 2.9 * loop.output_tokens * held.per_output_token);
  CHECK(held.first_token < 3.2 * loop.output_tokens * held.per_output_token);
}

TEST_CASE("copies of attention that wait for one prompt take as long as for a prompt each, but for experts") {
  const System one = system_of(1), copied = system_of(8);
  models::MeanStepWork prompt;
  prompt.prefill_sequences = 1;
  prompt.prefill_tokens = prompt.prefill_context = 4000;
  prompt.prefill_pairs = 4000.0 * 4001 / 2;
  models::MeanStepWork each = prompt;
  each.prefill_sequences *= 8;
  each.prefill_tokens *= 8;
  each.prefill_context *= 8;
  each.prefill_pairs *= 8;
  CHECK(copied.step_time.seconds(prompt) < copied.step_time.seconds(each));
  CHECK(copied.step_time.seconds(each) < 8 * copied.step_time.seconds(prompt));
  CHECK(copied.step_time.seconds(prompt) > one.step_time.seconds(prompt));
}
